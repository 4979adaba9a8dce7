// Plays one stream and says in words how it goes. Buttons and keys are in main.js, numbers in facts.js.
import Hls from "hls.js";
import { ServerClock } from "./clock.js";
import { ahead, latency, retryDelay } from "./facts.js";
import { pace } from "./pace.js";

/** Faults within this time of each other count as one that recovery did not cure. */
const MEDIA_FAULT_APART_MS = 5000;
/** Playback that stands still for so long is told to the viewer. */
const STALL_MS = 1500;
/** How often an ended stream is asked whether it is back. */
const COMEBACK_MS = 4000;
/** How often the server's clock is looked at again once it is known: clocks drift, and are set. */
const CLOCK_MS = 60_000;
/** Questions about the clock are this far apart at least. */
const CLOCK_PAUSE_MS = 200;

/**
 * States: `connecting`, `waiting` (not started yet), `playing`, `stalled`, `ended`, `lost` (trying again),
 * `unsupported`. `onState(state, words)` is called with every change, `onLevels()` when the choice of quality changed,
 * `onSounds()` when the choice of sound changed.
 */
export class Player {
  constructor(video, stream, { onState, onLevels, onSounds }) {
    this.video = video;
    this.stream = stream;
    this.url = `/${stream}/index.m3u8`;
    this.onState = onState;
    this.onLevels = onLevels;
    this.onSounds = onSounds;
    this.hls = null;
    this.state = "";
    this.attempt = 0;
    this.timer = 0;
    this.stallTimer = 0;
    this.mediaFaultAt = -Infinity;
    this.stopped = false;
    this.clock = new ServerClock();
    this.clockTimer = 0;
    this.listeners = new AbortController();
    const on = (event, act) => video.addEventListener(event, act, { signal: this.listeners.signal });
    on("playing", () => this.playing());
    on("timeupdate", () => {
      if (this.state === "stalled" && !video.seeking) this.playing();
      this.keepPace();
    });
    on("waiting", () => {
      clearTimeout(this.stallTimer);
      this.stallTimer = setTimeout(() => this.state === "playing" && this.set("stalled"), STALL_MS);
    });
    on("ended", () => this.ended());
    on("error", () => !this.hls && this.again("lost"));
    this.connect();
    this.readClock();
  }

  /** Ends playback for good. */
  stop() {
    this.stopped = true;
    clearTimeout(this.clockTimer);
    this.listeners.abort();
    clearTimeout(this.timer);
    clearTimeout(this.stallTimer);
    this.detach();
  }

  /** Jumps to where live is watched from. */
  goLive() {
    const target = this.hls?.liveSyncPosition ?? this.seekableEnd();
    if (Number.isFinite(target)) this.video.currentTime = target;
    this.play();
  }

  play() {
    // Refused when the browser wants a click first; the play button is there for that.
    this.video.play().catch(() => {});
  }

  /** What the facts below the picture show. */
  facts() {
    const { video, hls } = this;
    const level = hls?.levels[hls.currentLevel] ?? null;
    const started = video.getStartDate?.();
    const native = started && !Number.isNaN(started.getTime());
    const date = hls?.playingDate ?? (native ? new Date(started.getTime() + video.currentTime * 1000) : null);
    const quality = video.getVideoPlaybackQuality?.();
    return {
      state: this.state,
      latency: latency(date, this.now()),
      edge: hls?.latency ?? NaN,
      target: hls?.targetLatency ?? NaN,
      level,
      auto: hls?.autoLevelEnabled ?? true,
      bandwidth: hls?.bandwidthEstimate ?? NaN,
      buffer: ahead(video.buffered, video.currentTime),
      dropped: quality?.droppedVideoFrames ?? NaN,
      shown: quality?.totalVideoFrames ?? NaN,
      live: hls?.latestLevelDetails?.live ?? true,
      rate: video.playbackRate,
    };
  }

  /** The server's time, by which the stream is dated; the viewer's own while the server's is not known. */
  now() {
    const wall = this.clock.wall(performance.now());
    return Number.isNaN(wall) ? Date.now() : wall;
  }

  /** Asks for the server's time until it is known, and again from time to time. */
  async readClock() {
    const asked = performance.now();
    try {
      // The page itself: the only answer here that a shared cache may not give without asking the server. A copy has the
      // Date of the time at which the copy was made.
      const answer = await fetch("/", { method: "HEAD", cache: "no-store" });
      this.clock.observe(Date.parse(answer.headers.get("date")), asked, performance.now());
    } catch {
      // The server is away; how playback goes on is decided elsewhere.
    }
    if (this.stopped) return;
    const known = Number.isFinite(this.clock.uncertainty);
    const rest = this.clock.settled ? CLOCK_MS : known ? CLOCK_PAUSE_MS : COMEBACK_MS;
    this.clockTimer = setTimeout(() => this.readClock(), rest + this.clock.wait(performance.now() + rest));
  }

  connect() {
    clearTimeout(this.timer);
    if (this.stopped) return;
    if (this.state !== "waiting" && this.state !== "lost" && this.state !== "ended") this.set("connecting");
    this.detach();
    if (Hls.isSupported()) this.connectHls();
    else if (this.video.canPlayType("application/vnd.apple.mpegurl")) this.video.src = this.url;
    else return this.set("unsupported");
    this.play();
  }

  connectHls() {
    // Distance from live is the server's word (PART-HOLD-BACK, or HOLD-BACK where there are no parts); how to keep to
    // it is in pace.js, not hls.js's. Segments are fMP4, so there is nothing for a worker to transmux.
    const hls = new Hls({ maxLiveSyncPlaybackRate: 1, enableWorker: false, backBufferLength: 30 });
    this.hls = hls;
    hls.on(Hls.Events.MANIFEST_PARSED, () => {
      this.onLevels();
      this.listed().then((stream) => (this.since = stream?.since_unix_ms));
    });
    hls.on(Hls.Events.LEVEL_SWITCHED, () => this.onLevels());
    hls.on(Hls.Events.AUDIO_TRACKS_UPDATED, () => this.onSounds());
    hls.on(Hls.Events.AUDIO_TRACK_SWITCHING, () => this.onSounds());
    hls.on(Hls.Events.ERROR, (_, fault) => fault.fatal && this.fault(fault));
    hls.loadSource(this.url);
    hls.attachMedia(this.video);
  }

  /** Plays a little faster while the viewer is behind. */
  keepPace() {
    const { hls, video } = this;
    if (!hls?.latestLevelDetails?.live || video.paused) return;
    const target = hls.targetLatency ?? NaN;
    const behind = hls.latency - target;
    const buffered = ahead(video.buffered, video.currentTime);
    const rate = pace({ rate: video.playbackRate, behind, target, ahead: buffered });
    if (rate !== video.playbackRate) video.playbackRate = rate;
  }

  fault(fault) {
    if (fault.type === Hls.ErrorTypes.MEDIA_ERROR && performance.now() - this.mediaFaultAt > MEDIA_FAULT_APART_MS) {
      this.mediaFaultAt = performance.now();
      this.hls.recoverMediaError();
      return;
    }
    const missing = fault.response?.code === 404 || fault.response?.code === 410;
    // Missing after it had been playing: the stream is over and cleared away.
    if (missing && this.played) this.ended();
    else this.again(missing ? "waiting" : "lost");
  }

  again(state) {
    this.set(state);
    this.detach();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.connect(), retryDelay(this.attempt++, Math.random()));
  }

  playing() {
    clearTimeout(this.stallTimer);
    this.attempt = 0;
    this.played = true;
    this.set("playing");
  }

  /** Shows that it is over, and starts again when the stream is back on air. */
  ended() {
    this.set("ended");
    clearTimeout(this.timer);
    const look = async () => {
      const stream = await this.listed();
      if (this.stopped || this.state !== "ended") return;
      // The same start is the broadcast that just ended and is still listed: it would play from its beginning.
      if (stream && stream.since_unix_ms !== this.since) {
        this.played = false;
        return this.connect();
      }
      this.timer = setTimeout(look, COMEBACK_MS);
    };
    this.timer = setTimeout(look, COMEBACK_MS);
  }

  /** What the server says about this stream now; nothing when it is not on air or the server is away. */
  async listed() {
    try {
      const { streams } = await (await fetch("/streams.json", { cache: "no-store" })).json();
      return streams.find((stream) => `${stream.app}/${stream.name}` === this.stream);
    } catch {
      return undefined;
    }
  }

  detach() {
    this.hls?.destroy();
    this.hls = null;
  }

  seekableEnd() {
    const { seekable } = this.video;
    return seekable.length ? seekable.end(seekable.length - 1) : NaN;
  }

  set(state) {
    if (state === this.state) return;
    this.state = state;
    this.onState(state, WORDS[state]);
  }
}

const WORDS = {
  connecting: "Connecting…",
  waiting: "This stream has not started yet. It plays by itself as soon as it does.",
  playing: "",
  stalled: "Waiting for the stream…",
  ended: "This stream has ended.",
  lost: "The connection was lost. Trying again…",
  unsupported: "This browser cannot play HLS.",
};
