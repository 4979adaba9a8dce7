// Plays an MP4 in headless Chromium, seeks in it, and reports what a viewer saw.
// Standard input: {src, seeks: [seconds, …], patience}; standard output: one JSON object.
import { text } from 'node:stream/consumers';
import { withPage } from './chromium.mjs';

const job = JSON.parse(await text(process.stdin));
await withPage(async (page, console) => {
  const responses = [];
  page.on('response', (response) => { if (response.url() === job.src) responses.push(response.status()); });
  await page.setContent(`<video muted playsinline preload="metadata" src="${job.src}"></video>`);
  const seen = await page.evaluate(async ({ seeks, patience }) => {
    const video = document.querySelector('video');
    const until = (what, ready) => new Promise((resolve, reject) => {
      const begin = performance.now();
      const look = () => {
        if (video.error) reject(new Error(`${what}: ${video.error.message}`));
        else if (ready()) resolve((performance.now() - begin) / 1000);
        else if (performance.now() - begin > patience * 1000) reject(new Error(`${what}: too late`));
        else setTimeout(look, 20);
      };
      look();
    });
    await until('metadata', () => video.readyState >= 1);
    const { duration, videoWidth, videoHeight } = video;
    const frames = () => video.getVideoPlaybackQuality().totalVideoFrames;
    const played = [];
    for (const to of seeks) {
      video.currentTime = to;
      await until(`seek to ${to}`, () => !video.seeking && video.readyState >= 3);
      const [at, before] = [video.currentTime, frames()];
      await video.play();
      await until(`play from ${to}`, () => video.currentTime > at + 1 || video.ended);
      video.pause();
      played.push([at, video.currentTime, frames() - before]);
    }
    video.currentTime = duration - 0.5;
    await video.play();
    await until('the end', () => video.ended);
    return { duration, size: [videoWidth, videoHeight], played, audio: (video.webkitAudioDecodedByteCount ?? 0) > 0 };
  }, job);
  process.stdout.write(JSON.stringify({ ...seen, responses, console }));
});
