// Plays a playlist with shaka-player in headless Chromium and reports what a viewer saw.
// Standard input: {page, seconds, patience}; standard output: one JSON object.
import { text } from 'node:stream/consumers';
import { withPage } from './chromium.mjs';

// Seconds of playing before anything is judged.
const SETTLED = 4;

const job = JSON.parse(await text(process.stdin));
await withPage(async (page, console) => {
  await page.goto(job.page, { waitUntil: 'domcontentloaded' });
  await page.waitForFunction(() => window.__shaka?.errors.length
    || (window.__shaka?.loaded && window.__shaka.video.getVideoPlaybackQuality().totalVideoFrames > 2), null,
    { timeout: job.patience * 1000, polling: 50 });
  // shaka-player may wait once more behind its first frames, until it is as far from live as the playlist says.
  await page.evaluate(() => { window.__shaka.from = window.__shaka.video.currentTime; });
  await page.waitForFunction((settled) => window.__shaka.errors.length
    || window.__shaka.video.currentTime - window.__shaka.from > settled, SETTLED,
    { timeout: job.patience * 1000, polling: 50 });
  const result = await page.evaluate(async ({ seconds }) => {
    const { player, video, errors } = window.__shaka;
    let stalls = 0;
    video.addEventListener('waiting', () => { stalls += 1; });
    const begin = performance.now();
    const from = video.currentTime;
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    const quality = video.getVideoPlaybackQuality();
    return {
      watched: (performance.now() - begin) / 1000,
      advanced: video.currentTime - from,
      stalls,
      errors,
      frames: [quality.totalVideoFrames, quality.droppedVideoFrames],
      // From the playhead's PROGRAM-DATE-TIME to the wall clock.
      latency: (Date.now() - player.getPlayheadTimeAsDate().getTime()) / 1000,
      requests: performance.getEntriesByType('resource').map(({ name }) => name),
    };
  }, job);
  process.stdout.write(JSON.stringify({ ...result, console }));
});
