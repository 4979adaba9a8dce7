// Reads the clock code off a video element, frame by frame. The code's layout is documented, and drawn, in
// transcode/src/pattern/clock_code.rs. `record` runs in the page: it may use nothing from outside itself.

export function record(player) {
  const { video } = player;
  const [COLUMNS, FINDER, MIN_CONTRAST] = [40, 4, 60];
  const LEFT = [1, 0, 1, 0];
  const RIGHT = [0, 1, 0, 1];
  // Six pixels for a block, of which the middle ones are looked at; the strip's two rows are 8/72 of the height and
  // end 1/72 above the bottom.
  const [BLOCK, TOP, ROWS] = [6, 63 / 72, 8 / 72];
  const canvas = new OffscreenCanvas(COLUMNS * BLOCK, 2 * BLOCK);
  const context = canvas.getContext('2d', { willReadFrequently: true, alpha: false });

  const crc16 = (bytes) => bytes.reduce((crc, byte) => {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1;
    return crc & 0xffff;
  }, 0xffff);

  /** Unix time in milliseconds, or 0 when nothing can be read. */
  function readClock() {
    const { videoWidth: width, videoHeight: height } = video;
    context.drawImage(video, 0, TOP * height, width, ROWS * height, 0, 0, canvas.width, canvas.height);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    const bits = [];
    for (let row = 0; row < 2; row++) {
      const levels = Array.from({ length: COLUMNS }, (_, column) => {
        let sum = 0;
        for (const y of [2, 3]) {
          for (const x of [2, 3]) sum += data[4 * ((row * BLOCK + y) * canvas.width + column * BLOCK + x) + 1];
        }
        return sum / 4;
      });
      const finders = [...LEFT.map((white, at) => [levels[at], white]),
        ...RIGHT.map((white, at) => [levels[COLUMNS - FINDER + at], white])];
      const mean = (wanted) => finders.reduce((sum, [level, white]) => sum + (white === wanted ? level : 0), 0) / FINDER;
      const [white, black] = [mean(1), mean(0)];
      if (white < black + MIN_CONTRAST) return 0;
      const isWhite = (level) => Number(level > (white + black) / 2);
      if (finders.some(([level, white]) => isWhite(level) !== white)) return 0;
      bits.push(...levels.slice(FINDER, COLUMNS - FINDER).map(isWhite));
    }
    const bytes = Array.from({ length: 8 }, (_, at) => bits.slice(8 * at, 8 * at + 8).reduce((byte, bit) => byte * 2 + bit, 0));
    if (crc16(bytes.slice(0, 6)) !== bytes[6] * 256 + bytes[7]) return 0;
    return bytes.slice(0, 6).reduce((millis, byte) => millis * 256 + byte, 0);
  }

  const POLL_MS = 50;
  let seen;
  let last;
  const state = () => {
    const quality = video.getVideoPlaybackQuality();
    return { at: performance.now(), media: video.currentTime, total: quality.totalVideoFrames, dropped: quality.droppedVideoFrames };
  };
  const reset = () => {
    seen = { frames: [], waits: 0, freeze: 0, rates: [], errors: [], hls: [], from: state() };
    last = { position: video.currentTime, moved: performance.now() };
  };
  reset();

  function onFrame(now, metadata) {
    video.requestVideoFrameCallback(onFrame);
    const code = readClock();
    // When the frame is on the screen, on the wall clock; in milliseconds.
    const shown = Date.now() - performance.now() + metadata.expectedDisplayTime;
    const readout = player.facts?.().latency;
    seen.frames.push([shown, code, metadata.mediaTime, metadata.presentedFrames, Number.isFinite(readout) ? readout : null]);
  }
  video.requestVideoFrameCallback(onFrame);

  video.addEventListener('waiting', () => seen.waits++);
  video.addEventListener('ratechange', () => seen.rates.push([performance.now() - seen.from.at, video.playbackRate]));
  player.hls.on('hlsError', (_, data) => {
    // A load given up because of a switch is hls.js at work.
    if (data.details === 'aborted' && !data.fatal) return;
    seen.errors.push(`${data.details}: ${data.reason ?? data.error?.message ?? ''}${data.fatal ? ' (fatal)' : ''}`);
  });
  setInterval(() => {
    const now = performance.now();
    if (video.currentTime !== last.position) last = { position: video.currentTime, moved: now };
    seen.freeze = Math.max(seen.freeze, (now - last.moved) / 1000);
    const { hls } = player;
    if (!hls) return;
    let ahead = 0;
    for (let i = 0; i < video.buffered.length; i++) {
      if (video.buffered.start(i) <= video.currentTime && video.currentTime < video.buffered.end(i)) {
        ahead = video.buffered.end(i) - video.currentTime;
      }
    }
    seen.hls.push([hls.latency, hls.targetLatency, video.playbackRate, ahead, hls.currentLevel]);
  }, POLL_MS);

  window.__seen = {
    /** What was seen since the last call. */
    take() {
      const taken = seen;
      const to = state();
      reset();
      const { from, ...rest } = taken;
      return {
        ...rest,
        watched: (to.at - from.at) / 1000,
        advanced: to.media - from.media,
        decoded: to.total - from.total,
        dropped: to.dropped - from.dropped,
      };
    },
  };
}
