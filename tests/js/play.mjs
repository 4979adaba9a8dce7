// Plays a page in headless Chromium and reports what a viewer and hls.js saw.
// Standard input: {page, seconds, switches: [[seconds, level], …], patience}; standard output: one JSON object.
// The page offers window.__encoder = {hls, video}.
import { text } from 'node:stream/consumers';
import { withPage } from './chromium.mjs';

const job = JSON.parse(await text(process.stdin));
await withPage(async (page, console) => {
  const opened = Date.now();
  await page.goto(job.page, { waitUntil: 'domcontentloaded' });
  await page.waitForFunction(() => window.__encoder?.hls && window.__encoder?.video, null, { timeout: job.patience * 1000 });

  await page.evaluate(() => {
    const { hls, video } = window.__encoder;
    const seen = window.__seen = { errors: [], levels: [], heights: [], stalls: 0, started: false, freeze: 0 };
    hls.on('hlsError', (_, data) => {
      // A load given up because of a switch is hls.js at work.
      if (data.details === 'aborted' && !data.fatal) return;
      seen.errors.push([`${data.details}: ${data.reason ?? data.error?.message ?? ''}`, Boolean(data.fatal)]);
    });
    let last = -1;
    hls.on('hlsFragChanged', (_, { frag }) => {
      if (frag.type !== 'main' || frag.level === last) return;
      last = frag.level;
      seen.levels.push([frag.level, hls.levels[frag.level]?.height ?? 0]);
    });
    video.addEventListener('waiting', () => { if (seen.started) seen.stalls += 1; });
    video.addEventListener('resize', () => seen.heights.push(video.videoHeight));
    video.muted = true;
    video.play().catch(() => {});
  });

  await page.waitForFunction(() => window.__encoder.video.currentTime > 0 && !window.__encoder.video.paused
    && window.__encoder.video.getVideoPlaybackQuality().totalVideoFrames > 2, null,
    { timeout: job.patience * 1000, polling: 50 });
  const firstFrame = (Date.now() - opened) / 1000;

  const result = await page.evaluate(async ({ seconds, switches }) => {
    const { hls, video } = window.__encoder;
    const seen = window.__seen;
    seen.started = true;
    const begin = performance.now();
    const from = video.currentTime;
    const todo = [...switches];
    let position = from;
    let moved = begin;
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      const now = performance.now();
      if (video.currentTime > position) {
        position = video.currentTime;
        moved = now;
      }
      seen.freeze = Math.max(seen.freeze, (now - moved) / 1000);
      const elapsed = (now - begin) / 1000;
      while (todo.length && elapsed >= todo[0][0]) hls.nextLevel = todo.shift()[1];
      if (elapsed >= seconds) break;
    }
    const quality = video.getVideoPlaybackQuality();
    return {
      watched: (performance.now() - begin) / 1000,
      advanced: video.currentTime - from,
      longestFreeze: seen.freeze,
      stalls: seen.stalls,
      errors: seen.errors,
      levels: seen.levels,
      heights: seen.heights,
      frames: [quality.totalVideoFrames, quality.droppedVideoFrames],
      latency: Number.isFinite(hls.latency) ? hls.latency : null,
      audio: (video.webkitAudioDecodedByteCount ?? 0) > 0,
      requests: performance.getEntriesByType('resource').map(({ name, nextHopProtocol }) => [name, nextHopProtocol]),
    };
  }, job);
  process.stdout.write(JSON.stringify({ firstFrame, ...result, console }));
});
