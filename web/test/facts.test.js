import assert from "node:assert/strict";
import { test } from "node:test";
import { ahead, bitrate, latency, retryDelay, rung, seconds, since, streamFromQuery } from "../src/facts.js";

test("only names that the server accepts become streams", () => {
  assert.equal(streamFromQuery("?stream=live/demo"), "live/demo");
  assert.equal(streamFromQuery("?stream=live%2Fdemo_1-x"), "live/demo_1-x");
  for (const bad of ["", "?stream=", "?stream=demo", "?stream=../x", "?stream=a/b/c", "?stream=//x.example/y"]) {
    assert.equal(streamFromQuery(bad), null, bad);
  }
});

test("unknown numbers are dashes, never NaN", () => {
  assert.equal(seconds(NaN), "–");
  assert.equal(seconds(4.26), "4.3 s");
  assert.equal(bitrate(undefined), "–");
  assert.equal(bitrate(2_800_000), "2.8 Mbit/s");
  assert.equal(bitrate(128_000), "128 kbit/s");
  assert.ok(Number.isNaN(latency(null, 5)));
  assert.equal(latency(new Date(1000), 5500), 4.5);
});

test("portrait is named by its shorter side", () => {
  assert.equal(rung({ width: 720, height: 1280, frameRate: 30 }), "720p");
  assert.equal(rung({ width: 1920, height: 1080, frameRate: 60 }), "1080p60");
});

test("durations, buffers and retries", () => {
  assert.equal(since(30_000), "just started");
  assert.equal(since(61 * 60_000), "live for 1 h 1 min");
  const buffered = { length: 2, start: (i) => [0, 10][i], end: (i) => [4, 16][i] };
  assert.equal(ahead(buffered, 11), 5);
  assert.equal(ahead(buffered, 5), 0);
  assert.deepEqual([0, 1, 2, 3, 9].map((n) => retryDelay(n, 0)), [1000, 2000, 4000, 8000, 8000]);
  assert.equal(retryDelay(9, 1), 10_000);
});
