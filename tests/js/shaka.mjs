// Plays a playlist with shaka-player in headless Chromium and reports what a viewer saw.
// Standard input: {page, seconds, patience}; standard output: one JSON object.
import { text } from 'node:stream/consumers';
import { withPage } from './chromium.mjs';

const job = JSON.parse(await text(process.stdin));
await withPage(async (page, console) => {
  await page.goto(job.page, { waitUntil: 'domcontentloaded' });
  await page.waitForFunction(() => window.__shaka?.errors.length
    || (window.__shaka?.loaded && window.__shaka.video.getVideoPlaybackQuality().totalVideoFrames > 2), null,
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
