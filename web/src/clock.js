// The server's clock, for viewers whose own is off: taken from the Date header of its answers. Pure; who asks the server
// is player.js.
//
// Date is in whole seconds. One answer therefore says little, but what it says is certain: the server wrote it between
// our asking and the answer's arrival. Each answer bounds the difference of the clocks from below and from above, and a
// question that arrives just where the server's second may turn halves what is left: ten of them are enough for a few
// milliseconds and the time of a round trip.

/** Local clocks run fast or slow by 100 ppm, seldom more. */
const DRIFT = 1e-4;
/** Nothing is gained by asking on: milliseconds between the bounds, and at least round trips. */
const ENOUGH_MS = 20;
const ENOUGH_TRIPS = 1.5;

/**
 * All times in milliseconds. Local ones are of a monotonic clock (`performance.now()`), which nobody sets while the page
 * is open.
 */
export class ServerClock {
  constructor() {
    this.forget();
  }

  /** An answer arrived: its `Date`, when it was asked for and when it was there. Without a Date nothing is learnt. */
  observe(date, asked, arrived) {
    if (!Number.isFinite(date) || !(arrived >= asked)) return;
    this.age(arrived);
    const [low, high] = [date - arrived, date + 1000 - asked];
    // Contradicted: a clock was set, or the answer came out of a cache.
    if (low > this.high || high < this.low) this.forget();
    this.low = Math.max(this.low, low);
    this.high = Math.min(this.high, high);
    this.trip = Math.min(this.trip, arrived - asked);
    this.at = arrived;
  }

  /** The server's time at a local one, or NaN while it is not known. */
  wall(local) {
    return local + (this.low + this.high) / 2;
  }

  /** By how much `wall` may be wrong. */
  get uncertainty() {
    return (this.high - this.low) / 2;
  }

  /** Whether another question would bring little. */
  get settled() {
    const width = this.high - this.low;
    return Number.isFinite(width) && width <= Math.max(ENOUGH_MS, ENOUGH_TRIPS * this.trip);
  }

  /** How long to wait from a local time on, so that a question arrives where it tells most. */
  wait(local) {
    if (!Number.isFinite(this.uncertainty)) return 0;
    const arrival = this.wall(local) + this.trip / 2;
    return 1000 - (((arrival % 1000) + 1000) % 1000);
  }

  age(local) {
    const apart = DRIFT * Math.max(0, local - this.at);
    this.low -= apart;
    this.high += apart;
  }

  forget() {
    [this.low, this.high, this.trip, this.at] = [-Infinity, Infinity, Infinity, Infinity];
  }
}
