//! The pods of a fleet: which are starting, free and busy. When a pod changes its state is in [`crate::simulation`].

use crate::nodes::Nodes;
use fastrand::Rng;

/// A pod, by its place in [`Pods`]. A place is used again when nothing refers to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodId(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodState {
    /// Asked for, not yet ready.
    Starting,
    /// Takes the next publisher.
    Free,
    /// Has a stream, and is a replica.
    Busy,
    /// Has a stream, is no longer a replica, and leaves after the stream.
    Draining,
    /// Was removed while it was starting.
    Cancelled,
    /// The place has no pod.
    Gone,
}

impl PodState {
    /// The list that has the pods of this state.
    fn list(self) -> Option<usize> {
        match self {
            Self::Starting => Some(0),
            Self::Free => Some(1),
            Self::Busy => Some(2),
            Self::Draining | Self::Cancelled | Self::Gone => None,
        }
    }
}

struct Pod {
    state: PodState,
    node: usize,
    /// Index in the list of its state.
    place: usize,
}

pub(crate) struct Pods {
    pods: Vec<Pod>,
    vacant: Vec<PodId>,
    lists: [Vec<PodId>; 3],
    draining: u32,
    nodes: Nodes,
}

impl Pods {
    pub(crate) fn new(pods_per_node: u32) -> Self {
        let lists = [Vec::new(), Vec::new(), Vec::new()];
        Self { pods: Vec::new(), vacant: Vec::new(), lists, draining: 0, nodes: Nodes::new(pods_per_node) }
    }

    /// Pods in this state; 0 for cancelled and absent pods.
    pub(crate) fn count(&self, state: PodState) -> u32 {
        match state.list() {
            Some(list) => self.lists[list].len() as u32,
            None => 0,
        }
    }

    /// Starting, free and busy pods.
    pub(crate) fn replicas(&self) -> u32 {
        self.lists.iter().map(|list| list.len() as u32).sum()
    }

    /// All pods that exist: replicas, and those that drain.
    pub(crate) fn existing(&self) -> u32 {
        self.replicas() + self.draining
    }

    pub(crate) fn nodes_in_use(&self) -> u32 {
        self.nodes.in_use()
    }

    pub(crate) fn state(&self, pod: PodId) -> PodState {
        self.pods[pod.0 as usize].state
    }

    /// Adds a pod.
    pub(crate) fn add(&mut self, state: PodState) -> PodId {
        let node = self.nodes.place();
        let pod = match self.vacant.pop() {
            Some(pod) => pod,
            None => {
                self.pods.push(Pod { state: PodState::Gone, node, place: 0 });
                PodId(self.pods.len() as u32 - 1)
            }
        };
        self.pods[pod.0 as usize].node = node;
        self.change(pod, state);
        pod
    }

    /// Moves a pod to another state. A pod that becomes `Gone` gives its place back.
    pub(crate) fn change(&mut self, pod: PodId, state: PodState) {
        let index = pod.0 as usize;
        let before = self.pods[index].state;
        if let Some(list) = before.list() {
            let place = self.pods[index].place;
            self.lists[list].swap_remove(place);
            if let Some(moved) = self.lists[list].get(place) {
                self.pods[moved.0 as usize].place = place;
            }
        }
        if let Some(list) = state.list() {
            self.pods[index].place = self.lists[list].len();
            self.lists[list].push(pod);
        }
        self.draining =
            self.draining + u32::from(state == PodState::Draining) - u32::from(before == PodState::Draining);
        self.pods[index].state = state;
        // A cancelled pod has left its node; only its place waits for the event that names it.
        let leaves =
            state == PodState::Cancelled || (state == PodState::Gone && before != PodState::Cancelled);
        if leaves {
            self.nodes.leave(self.pods[index].node);
        }
        if state == PodState::Gone {
            self.vacant.push(pod);
        }
    }

    /// A pod of this state, chosen at random.
    pub(crate) fn any(&self, state: PodState, random: &mut Rng) -> Option<PodId> {
        let list = &self.lists[state.list()?];
        if list.is_empty() { None } else { Some(list[random.usize(..list.len())]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_counted_by_state_and_places_are_used_again() {
        let mut random = Rng::with_seed(1);
        let mut pods = Pods::new(1);
        let first = pods.add(PodState::Starting);
        let second = pods.add(PodState::Free);
        pods.change(first, PodState::Cancelled);
        assert_eq!((pods.count(PodState::Starting), pods.replicas(), pods.nodes_in_use()), (0, 1, 1));
        assert_ne!(pods.add(PodState::Starting), first, "an event still names the cancelled pod");
        pods.change(first, PodState::Gone);
        assert_eq!(pods.nodes_in_use(), 2);
        assert_eq!(pods.add(PodState::Starting), first);
        assert_eq!(pods.any(PodState::Free, &mut random), Some(second));
        pods.change(second, PodState::Busy);
        pods.change(second, PodState::Draining);
        assert_eq!((pods.replicas(), pods.existing(), pods.state(second)), (2, 3, PodState::Draining));
        assert_eq!(pods.any(PodState::Free, &mut random), None);
    }
}
