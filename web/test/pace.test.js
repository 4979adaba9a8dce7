import assert from "node:assert/strict";
import { test } from "node:test";
import { pace } from "../src/pace.js";

/** Plays for `seconds` from `behind` on; `noise(t)` is by how much the estimate is wrong. Answers rates and the end. */
function play(behind, { seconds = 120, target = 3, noise = () => 0 } = {}) {
  let rate = 1;
  const rates = [];
  for (let t = 0; t < seconds; t += 0.25) {
    const next = pace({ rate, behind: behind + noise(t), target, ahead: target + behind - 0.5 });
    if (next !== rate) rates.push(next);
    rate = next;
    behind -= (rate - 1) * 0.25;
  }
  return { rates, behind };
}

test("a viewer at the target is left alone, however the estimate trembles", () => {
  assert.deepEqual(play(0, { noise: (t) => 0.1 * Math.sin(7 * t) }).rates, []);
  assert.deepEqual(play(0.1, { noise: (t) => (Math.floor(t * 4) % 2 ? 0.04 : -0.2) }).rates, []);
});

test("a viewer who is behind comes back in one go, slower towards the end", () => {
  for (const behind of [0.2, 0.5, 1, 2, 4]) {
    const { rates, behind: left } = play(behind);
    assert.deepEqual(rates, behind > 0.5 ? [1.1, 1.05, 1] : [1.05, 1], `${behind} s`);
    assert.ok(Math.abs(left) < 0.05, `${left} s are left of ${behind} s`);
  }
});

test("whoever is far behind stays, and so does who has nothing buffered", () => {
  assert.equal(pace({ rate: 1, behind: 60, target: 3, ahead: 20 }), 1);
  assert.equal(pace({ rate: 1.1, behind: 60, target: 3, ahead: 20 }), 1);
  assert.equal(pace({ rate: 1.05, behind: 2, target: 3, ahead: 0.4 }), 1);
  assert.equal(pace({ rate: 1, behind: 1, target: 3, ahead: 3 }), 1.1);
  assert.equal(pace({ rate: 1, behind: 0.5, target: 1.2, ahead: 0.9 }), 1.05, "a short hold-back has less to spare");
});

test("nothing known is nothing done", () => {
  assert.equal(pace({ rate: 1.05, behind: NaN, target: NaN, ahead: 5 }), 1);
});
