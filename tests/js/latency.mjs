// Plays a page in headless Chromium and reads the age of every frame that it shows off the picture.
// Standard input: {page, warmup, seconds, patience}; standard output: one JSON object, see tests/src/viewer.rs.
// The page offers window.__encoder = {hls, video}, and facts() where it has a latency readout of its own.
import { text } from 'node:stream/consumers';
import { record } from './clock.mjs';
import { withPage } from './chromium.mjs';

const job = JSON.parse(await text(process.stdin));
await withPage(async (page, console) => {
  const opened = Date.now();
  await page.goto(job.page, { waitUntil: 'domcontentloaded' });
  const wait = { timeout: job.patience * 1000, polling: 50 };
  await page.waitForFunction(() => window.__encoder?.hls && window.__encoder?.video, null, wait);
  await page.evaluate(`void (window.__record = ${record})`);
  await page.evaluate(() => {
    window.__record(window.__encoder);
    window.__encoder.video.muted = true;
    window.__encoder.video.play().catch(() => {});
  });
  await page.waitForFunction(() => window.__encoder.video.currentTime > 0 && !window.__encoder.video.paused
    && window.__encoder.video.getVideoPlaybackQuality().totalVideoFrames > 2, null, wait);
  const firstFrame = (Date.now() - opened) / 1000;
  const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  await pause(job.warmup);
  const warmup = await page.evaluate(() => window.__seen.take());
  await pause(job.seconds);
  const measured = await page.evaluate(() => window.__seen.take());
  process.stdout.write(JSON.stringify({ firstFrame, warmup, measured, console }));
}, { viewport: { width: 1024, height: 700 } });
