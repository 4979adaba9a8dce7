// The list of live streams. What happens on a click is decided by main.js.
import { since } from "./facts.js";

const REFRESH_MS = 4000;
const SVG = "http://www.w3.org/2000/svg";

/** Shows what is on air until `stop()`. */
export function showList(cards, empty) {
  let timer = 0;
  let stopped = false;
  const shown = new Map();

  async function refresh() {
    try {
      const answer = await fetch("/streams.json", { cache: "no-store" });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const { streams } = await answer.json();
      if (stopped) return;
      draw(streams);
      empty.hidden = streams.length > 0;
      empty.textContent = "Nothing is on air. Streams appear here by themselves as soon as they start.";
    } catch {
      if (stopped) return;
      empty.hidden = false;
      empty.textContent = "The server does not answer. Trying again…";
    }
    if (!stopped) timer = setTimeout(refresh, REFRESH_MS);
  }

  function draw(streams) {
    const paths = new Set(streams.map((stream) => `${stream.app}/${stream.name}`));
    for (const [path, card] of shown) {
      if (!paths.has(path)) {
        card.item.remove();
        shown.delete(path);
      }
    }
    for (const stream of streams) {
      const path = `${stream.app}/${stream.name}`;
      let card = shown.get(path);
      if (!card) {
        card = newCard(stream, path);
        shown.set(path, card);
        cards.append(card.item);
      }
      card.update(stream);
    }
  }

  refresh();
  return () => {
    stopped = true;
    clearTimeout(timer);
    cards.replaceChildren();
  };
}

function newCard(stream, path) {
  const item = document.createElement("li");
  const link = document.createElement("a");
  link.href = `/?stream=${path}`;
  link.dataset.stream = path;
  const picture = document.createElement("div");
  picture.className = "picture";
  const drawn = placeholder(path);
  const image = document.createElement("img");
  image.alt = "";
  image.hidden = true;
  image.addEventListener("load", () => (image.hidden = false));
  image.addEventListener("error", () => (image.hidden = true));
  const badge = document.createElement("span");
  badge.className = "badge";
  badge.textContent = "LIVE";
  picture.append(drawn, image, badge);
  const name = document.createElement("strong");
  name.textContent = stream.name;
  const about = document.createElement("small");
  link.append(picture, name, about);
  item.append(link);
  return {
    item,
    update(now) {
      const behind = now.latency_secs ? ` · ${Number(now.latency_secs)} s latency` : "";
      about.textContent = `${now.app} · ${since(Date.now() - now.since_unix_ms)}${behind}`;
      if (now.thumbnail) image.src = `${now.thumbnail}?t=${Date.now()}`;
      else image.hidden = true;
    },
  };
}

/** A picture for streams without one: a colour of their own and a play sign. */
function placeholder(path) {
  let hue = 0;
  for (const character of path) hue = (hue * 31 + character.codePointAt(0)) % 360;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 160 90");
  svg.setAttribute("preserveAspectRatio", "xMidYMid slice");
  svg.setAttribute("aria-hidden", "true");
  const shapes = [
    ["rect", { width: 160, height: 90, fill: `hsl(${hue} 35% 24%)` }],
    ["circle", { cx: 130, cy: 16, r: 46, fill: `hsl(${hue} 40% 32%)` }],
    ["circle", { cx: 24, cy: 88, r: 38, fill: `hsl(${(hue + 40) % 360} 40% 30%)` }],
    ["path", { d: "M70 32l24 13-24 13z", fill: "#ffffffd0" }],
  ];
  for (const [kind, attributes] of shapes) {
    const shape = document.createElementNS(SVG, kind);
    for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
    svg.append(shape);
  }
  return svg;
}
