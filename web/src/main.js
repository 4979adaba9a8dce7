// The page: which view is shown, buttons and keys. Playing is in player.js, the list in list.js.
import { bitrate, rung, seconds, streamFromQuery } from "./facts.js";
import { showList } from "./list.js";
import { FAR } from "./pace.js";
import { Player } from "./player.js";

const FACTS_EVERY_MS = 500;
const at = (id) => document.getElementById(id);
const video = at("video");
const box = at("player");
const quality = at("quality");
const sound = at("sound");

let player = null;
let leave = () => {};

// For tests and for looking into a running page; nothing of the page itself reads it.
window.__encoder = {
  video,
  get hls() {
    return player?.hls ?? null;
  },
  get state() {
    return player?.state ?? null;
  },
  facts: () => player?.facts() ?? null,
};

function show() {
  leave();
  const stream = streamFromQuery(location.search);
  at("list").hidden = stream !== null;
  at("watch").hidden = stream === null;
  at("where").textContent = stream ?? "";
  document.title = stream ? `${stream} · Live` : "Live";
  leave = stream ? watch(stream) : showList(at("cards"), at("empty"));
}

function watch(stream) {
  at("title").textContent = stream;
  video.muted = true;
  sound.hidden = true;
  player = new Player(video, stream, { onState, onLevels, onSounds });
  const timer = setInterval(showFacts, FACTS_EVERY_MS);
  return () => {
    clearInterval(timer);
    player.stop();
    player = null;
  };
}

function onState(state, words) {
  box.dataset.state = state;
  at("notice").textContent = words;
  at("live").disabled = state !== "playing" && state !== "stalled";
  showButtons();
}

function onLevels() {
  const { hls } = player;
  const levels = hls.levels.map((level, index) => [String(index), `${rung(level)} · ${bitrate(level.bitrate)}`]);
  const current = hls.levels[hls.currentLevel];
  const automatic = hls.autoLevelEnabled && current ? `Auto (${rung(current)})` : "Auto";
  const options = [["-1", automatic], ...levels.reverse()].map(([value, text]) => new Option(text, value));
  quality.replaceChildren(...options);
  quality.value = String(hls.autoLevelEnabled ? -1 : hls.loadLevel);
}

// The menu is there only where there is a choice.
function onSounds() {
  const { hls } = player;
  sound.replaceChildren(...hls.audioTracks.map(({ name }, index) => new Option(name, String(index))));
  sound.value = String(hls.audioTrack);
  sound.hidden = hls.audioTracks.length < 2;
}

function showFacts() {
  const facts = player.facts();
  const set = (id, text) => {
    const place = at(id);
    if (place.textContent !== text) place.textContent = text;
  };
  const playing = facts.state === "playing" || facts.state === "stalled";
  set("fact-latency", playing && facts.live ? seconds(facts.latency) : "–");
  set("fact-edge", playing && facts.live ? seconds(facts.edge) : "–");
  const size = video.videoWidth ? `${video.videoWidth}×${video.videoHeight}` : "–";
  set("fact-rung", facts.level ? `${size}, ${facts.auto ? "auto" : "fixed"}` : size);
  set("fact-bitrate", bitrate(facts.level?.bitrate));
  set("fact-bandwidth", bitrate(facts.bandwidth));
  set("fact-buffer", playing ? seconds(facts.buffer) : "–");
  set("fact-dropped", Number.isFinite(facts.dropped) ? `${facts.dropped} of ${facts.shown}` : "–");
  const edge = !facts.live ? "REPLAY" : facts.edge > facts.target + FAR ? "GO LIVE" : "LIVE";
  set("live-text", edge);
  at("live").classList.toggle("behind", edge !== "LIVE" || !playing);
}

// === buttons ===

const togglePlay = () => (video.paused ? player?.play() : video.pause());
const toggleMute = () => (video.muted = !video.muted);

function toggleFull() {
  if (document.fullscreenElement) document.exitFullscreen();
  else if (box.requestFullscreen) box.requestFullscreen().catch(() => {});
  // iPhones make only the video itself full-screen.
  else video.webkitEnterFullscreen?.();
}

function showButtons() {
  box.classList.toggle("paused", video.paused);
  box.classList.toggle("muted", video.muted);
  at("play").setAttribute("aria-label", video.paused ? "Play" : "Pause");
  at("mute").setAttribute("aria-label", video.muted ? "Unmute" : "Mute");
  at("unmute").hidden = !video.muted || video.paused || box.dataset.state !== "playing";
}

for (const event of ["play", "pause", "volumechange", "playing"]) video.addEventListener(event, showButtons);
video.addEventListener("resize", () => {
  if (video.videoWidth) box.style.setProperty("--ratio", String(video.videoWidth / video.videoHeight));
});
video.addEventListener("click", togglePlay);
video.addEventListener("dblclick", toggleFull);
at("play").addEventListener("click", togglePlay);
at("mute").addEventListener("click", toggleMute);
at("unmute").addEventListener("click", () => {
  video.muted = false;
  at("mute").focus();
});
at("live").addEventListener("click", () => player?.goLive());
at("full").addEventListener("click", toggleFull);
quality.addEventListener("change", () => {
  if (!player?.hls) return;
  player.hls.nextLevel = Number(quality.value);
  onLevels();
});

sound.addEventListener("change", () => {
  if (player?.hls) player.hls.audioTrack = Number(sound.value);
});

const KEYS = {
  " ": togglePlay,
  k: togglePlay,
  m: toggleMute,
  f: toggleFull,
  l: () => player.goLive(),
  q: () => quality.focus(),
  s: () => sound.focus(),
};

document.addEventListener("keydown", (event) => {
  if (!player || event.ctrlKey || event.metaKey || event.altKey) return;
  // Space belongs to the button or menu that has the focus, letters to the open menu.
  const own = event.target.closest?.("button, a, select");
  if (own && (event.key === " " || own.matches("select"))) return;
  const act = KEYS[event.key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
});

// === views without loading the page again ===

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-stream], a.home");
  if (!link || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  show();
});
window.addEventListener("popstate", show);
showButtons();
show();
