// Pure functions: what is shown, out of numbers. No page and no player here.

/** `live/demo` out of a URL's query, or null. The same characters as the server accepts. */
export function streamFromQuery(query) {
  const stream = new URLSearchParams(query).get("stream");
  return stream !== null && /^[A-Za-z0-9_-]{1,64}\/[A-Za-z0-9_-]{1,64}$/.test(stream) ? stream : null;
}

/** Seconds with one digit, or a dash when unknown or senseless. */
export function seconds(value) {
  return Number.isFinite(value) && value >= 0 ? `${value.toFixed(1)} s` : "–";
}

/** Bits a second for people. */
export function bitrate(bits) {
  if (!Number.isFinite(bits) || bits <= 0) return "–";
  return bits >= 1e6 ? `${(bits / 1e6).toFixed(1)} Mbit/s` : `${Math.round(bits / 1e3)} kbit/s`;
}

/** How long something has lasted. */
export function since(milliseconds) {
  const minutes = Math.floor(milliseconds / 60_000);
  if (!(minutes >= 1)) return "just started";
  if (minutes < 60) return `live for ${minutes} min`;
  return `live for ${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** A rung as viewers name it: by its shorter side, so that portrait is called what landscape is. */
export function rung(level) {
  const side = Math.min(level.width || 0, level.height || 0);
  if (!side) return level.name || "audio only";
  const rate = level.frameRate > 31 ? Math.round(level.frameRate) : "";
  return `${side}p${rate}`;
}

/** Seconds between the picture's date and now, both by the server's clock; NaN when the playlist has no dates. */
export function latency(playingDate, now) {
  return playingDate ? (now - playingDate.getTime()) / 1000 : NaN;
}

/** Seconds that are buffered ahead of the playhead. */
export function ahead(buffered, at) {
  for (let i = 0; i < buffered.length; i++) {
    if (buffered.start(i) <= at + 0.1 && at < buffered.end(i)) return buffered.end(i) - at;
  }
  return 0;
}

/** Milliseconds to the next try: 1 s, doubling to 8 s, and up to a quarter more so that viewers do not come at once. */
export function retryDelay(attempt, random) {
  return Math.min(8000, 1000 * 2 ** Math.min(attempt, 3)) * (1 + random / 4);
}
