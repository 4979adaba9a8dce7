import assert from "node:assert/strict";
import { test } from "node:test";
import { ServerClock } from "../src/clock.js";

/** A server whose clock is `ahead` of the local one, and a network with these times there and back. */
function ask(clock, local, ahead, there, back) {
  const date = Math.floor((local + there + ahead) / 1000) * 1000;
  clock.observe(date, local, local + there + back);
}

test("ten answers are enough for a few milliseconds, whatever the difference", () => {
  for (const ahead of [0, 1, 499, 999.5, -12_345.6, 1_795_370_645_678.9]) {
    const clock = new ServerClock();
    let local = 5_000;
    let asked = 0;
    while (!clock.settled) {
      local += clock.wait(local);
      ask(clock, local, ahead, 4, 4);
      asked += 1;
      assert.ok(clock.low <= ahead && ahead <= clock.high, `${ahead}: the bounds are certain`);
    }
    assert.ok(asked <= 10, `${asked} answers`);
    assert.ok(Math.abs(clock.wall(local) - (local + ahead)) <= 10);
  }
});

test("a lopsided network costs half of its round trip at most", () => {
  const clock = new ServerClock();
  let local = 0;
  for (let asked = 0; asked < 12; asked++) {
    local += clock.wait(local);
    ask(clock, local, 333, 5, 95);
    local += 100;
  }
  assert.ok(clock.uncertainty <= 51, `${clock.uncertainty}`);
  assert.ok(Math.abs(clock.wall(0) - 333) <= clock.uncertainty);
});

test("nothing is known before an answer, nor after one without a date", () => {
  const clock = new ServerClock();
  assert.ok(Number.isNaN(clock.wall(0)));
  assert.ok(!clock.settled);
  clock.observe(NaN, 0, 10);
  assert.ok(Number.isNaN(clock.wall(0)));
  assert.equal(clock.wait(123), 0);
});

test("a clock that was set is believed again", () => {
  const clock = new ServerClock();
  let local = 0;
  for (const ahead of [1000, 61_000]) {
    for (let asked = 0; asked < 12; asked++) {
      local += clock.wait(local);
      ask(clock, local, ahead, 2, 2);
    }
    assert.ok(Math.abs(clock.wall(local) - local - ahead) < 15, `${ahead}`);
  }
});

test("drift of the local clock is allowed for", () => {
  const clock = new ServerClock();
  for (let second = 0; second < 3600; second += 5) {
    // The local clock gains 50 ppm.
    const truth = second * 1000;
    const local = truth * (1 + 5e-5) + 0.5;
    ask(clock, local, truth - local, 3, 3);
    assert.ok(clock.low <= truth - local + 1 && truth - local - 1 <= clock.high);
  }
});
