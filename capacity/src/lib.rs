//! How many free encoders a fleet needs, so that few publishers are refused.
//!
//! [`Fleet`] describes publishers, streams, pods and the control loop that starts and removes pods; [`simulate`] lets
//! simulated time pass for a fleet and counts refused publishers. [`formulas`] has the closed formulas for the simple
//! fleets; tests hold the simulation to them. [`report`] makes the tables of docs/scale.md.
//!
//! How many viewers an edge carries is arithmetic (`edges`), not simulated. The crate has no sockets and no clock: time
//! is simulated, and one seed always gives the same outcome.

mod distribution;
pub mod document;
mod edges;
mod fleet;
pub mod formulas;
mod nodes;
mod pods;
mod publishers;
mod queue;
pub mod report;
mod scaling;
pub mod search;
mod simulation;
mod statistics;
mod table;

pub use distribution::{Distribution, StartTime};
pub use fleet::{
    AfterStream, Control, Fleet, Growth, Publishers, Removal, Retry, Shrinking, Spike, USUAL_DAY,
};
pub use simulation::{Outcome, Period, simulate};
pub use statistics::{Estimate, estimate};
