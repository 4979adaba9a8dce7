// Plays a page in headless Chromium with hls.js at one level, and reports the captions that a viewer gets to read.
// Standard input: {page, level, count, patience}; standard output: one JSON object. Ends once `count` captions were shown.
// The page offers window.__encoder = {hls, video} and does not start to load by itself.
import { text } from 'node:stream/consumers';
import { withPage } from './chromium.mjs';

const job = JSON.parse(await text(process.stdin));
await withPage(async (page, console) => {
  await page.goto(job.page, { waitUntil: 'domcontentloaded' });
  await page.waitForFunction(() => window.__encoder?.hls?.levels?.length, null, { timeout: job.patience * 1000 });
  const seen = await page.evaluate(async ({ level, count, patience }) => {
    const { hls, video } = window.__encoder;
    const [levels, shown, errors] = [new Set(), [], []];
    hls.on('hlsError', (_, data) => { if (data.fatal) errors.push(data.details); });
    hls.on('hlsFragBuffered', (_, { frag }) => { if (frag.type === 'main') levels.add(hls.levels[frag.level].name || hls.levels[frag.level].height); });
    hls.startLevel = level;
    hls.loadLevel = level;
    hls.startLoad();
    video.muted = true;
    video.play().catch(() => {});
    const begin = performance.now();
    while (shown.length < count && performance.now() - begin < patience * 1000) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      for (const track of video.textTracks) {
        if (track.mode === 'disabled') track.mode = 'hidden';
        for (const cue of track.activeCues ?? []) {
          if (shown.at(-1)?.[0] !== cue.text) shown.push([cue.text, cue.startTime]);
        }
      }
    }
    return {
      shown: shown.map(([said]) => said),
      heights: [...levels],
      tracks: [...video.textTracks].map(({ kind, label }) => [kind, label]),
      errors,
    };
  }, job);
  process.stdout.write(JSON.stringify({ ...seen, console }));
});
