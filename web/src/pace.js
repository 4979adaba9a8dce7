// How fast to play, so that a viewer who fell behind comes back to where live is watched from. Pure.
//
// Browsers keep the pitch when the rate changes, by cutting and overlapping the sound. Speech 5 % faster passes unnoticed;
// 10 % is heard in music; and every change is a splice. So: late to begin, slow, and to the end. hls.js's own catch-up
// begins at 0.07 s and stops at 0.05 s, which is less than the times of its estimate vary by: it never leaves the rate
// alone.

/** Seconds behind the target at which catching up begins. */
const BEGIN = 0.15;
/**
 * Seconds behind the target from which on it is done at the higher rate, and down to which it then is. Players begin a
 * second behind, for what loading took: at the lower rate alone that lasts 20 s.
 */
const HURRY = 0.5;
const HURRY_ENDS = 0.25;
/** Rates: rather unnoticed, and rather soon. */
const SLOW = 1.05;
const FAST = 1.1;
/** Further behind is where a viewer chose to be, by a pause, or an outage left them: theirs to decide. In seconds. */
export const FAR = 5;
/** With less than this ahead, in seconds, playing faster would only end in a stall sooner. */
const AHEAD = 1;

/**
 * The rate to play at: `rate` is the present one, `behind` the seconds by which the distance from live is above `target`,
 * `ahead` the seconds buffered.
 */
export function pace({ rate, behind, target, ahead }) {
  // A hold-back below two seconds never has a whole one to spare.
  if (!(behind <= FAR) || ahead < Math.min(AHEAD, target / 2)) return 1;
  if (behind <= 0) return 1;
  if (behind > HURRY || (rate >= FAST && behind > HURRY_ENDS)) return FAST;
  return rate > 1 || behind > BEGIN ? SLOW : 1;
}
