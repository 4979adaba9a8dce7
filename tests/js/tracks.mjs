// Switches between audio renditions in headless Chromium and reports what was heard, by Web Audio.
// Standard input: {player: "hls" | "shaka", page, choices: [name, …], tones: [Hz, …], patience}; standard output: one
// JSON object.
import { text } from 'node:stream/consumers';
import { withPage } from './chromium.mjs';

const job = JSON.parse(await text(process.stdin));
await withPage(async (page, console) => {
  await page.goto(job.page, { waitUntil: 'domcontentloaded' });
  await page.evaluate((player) => {
    const video = document.getElementById('video');
    const seen = window.__sounds = { errors: [], stalls: 0, freeze: 0 };
    // One shape for both players: names of the renditions, the active one, and the choice.
    if (player === 'hls') {
      const { hls } = window.__encoder;
      hls.on('hlsError', (_, data) => {
        if (data.details !== 'aborted' || data.fatal) seen.errors.push(`${data.details}: ${data.reason ?? data.error?.message ?? ''}`);
      });
      seen.tracks = () => hls.audioTracks.map(({ name, lang }) => ({ name, language: lang ?? '' }));
      seen.active = () => hls.audioTracks[hls.audioTrack]?.name ?? '';
      seen.choose = (name) => { hls.audioTrack = hls.audioTracks.findIndex((track) => track.name === name); };
    } else {
      const { player: shaka, errors } = window.__shaka;
      seen.errors = errors;
      seen.tracks = () => shaka.getAudioTracks().map(({ label, language }) => ({ name: label, language }));
      seen.active = () => shaka.getAudioTracks().find(({ active }) => active)?.label ?? '';
      seen.choose = (name) => shaka.selectAudioTrack(shaka.getAudioTracks().find(({ label }) => label === name));
    }
    // A muted element is silent for Web Audio, too; Chromium itself plays to nobody.
    video.muted = false;
    const context = new AudioContext();
    const analyser = context.createAnalyser();
    analyser.fftSize = 8192;
    analyser.smoothingTimeConstant = 0;
    context.createMediaElementSource(video).connect(analyser);
    analyser.connect(context.destination);
    const levels = new Float32Array(analyser.frequencyBinCount);
    // The loudest of the tones, or 0 where none rises above -80 dB.
    seen.tone = (tones) => {
      analyser.getFloatFrequencyData(levels);
      const width = context.sampleRate / analyser.fftSize;
      const level = (tone) => Math.max(...[-1, 0, 1].map((near) => levels[Math.round(tone / width) + near]));
      const loudest = tones.reduce((best, tone) => (level(tone) > level(best) ? tone : best));
      return level(loudest) > -80 ? loudest : 0;
    };
    video.play().catch(() => {});
  }, job.player);

  await page.waitForFunction(() => window.__sounds.errors.length || (!document.getElementById('video').paused
    && document.getElementById('video').getVideoPlaybackQuality().totalVideoFrames > 2 && window.__sounds.tracks().length > 1), null,
    { timeout: job.patience * 1000, polling: 50 });
  // shaka-player may wait once more behind its first frames, until it is as far from live as the playlist says.
  await page.evaluate(() => { window.__sounds.from = document.getElementById('video').currentTime; });
  await page.waitForFunction(() => window.__sounds.errors.length
    || document.getElementById('video').currentTime - window.__sounds.from > 4, null,
    { timeout: job.patience * 1000, polling: 50 });

  const result = await page.evaluate(async ({ choices, tones, patience }) => {
    const video = document.getElementById('video');
    const seen = window.__sounds;
    const tracks = seen.tracks();
    const first = seen.active();
    video.addEventListener('waiting', () => { seen.stalls += 1; });
    const begin = performance.now();
    const from = video.currentTime;
    let [position, moved] = [from, begin];
    const pause = async () => {
      await new Promise((resolve) => setTimeout(resolve, 50));
      const now = performance.now();
      if (video.currentTime > position) [position, moved] = [video.currentTime, now];
      seen.freeze = Math.max(seen.freeze, (now - moved) / 1000);
    };
    const heard = [];
    let last = seen.tone(tones);
    for (const name of choices) {
      const before = seen.active();
      seen.choose(name);
      // What is buffered of the former rendition may still be heard.
      const limit = performance.now() + patience * 1000;
      while (name !== before && seen.tone(tones) === last && performance.now() < limit) await pause();
      const until = video.currentTime + 2;
      while (video.currentTime < until && performance.now() < limit) await pause();
      last = seen.tone(tones);
      heard.push([name, last]);
    }
    return {
      names: tracks.map(({ name }) => name),
      languages: tracks.map(({ language }) => language),
      first,
      heard,
      stalls: seen.stalls,
      longestFreeze: seen.freeze,
      watched: (performance.now() - begin) / 1000,
      advanced: video.currentTime - from,
      errors: seen.errors,
    };
  }, job);
  process.stdout.write(JSON.stringify({ ...result, console }));
});
