//! Where pods run: the first node with room, as a scheduler that packs nodes does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The nodes of a cluster. Nodes without pods do not count: the cluster autoscaler has removed them.
pub(crate) struct Nodes {
    pods_per_node: u32,
    /// Pods on each node.
    pods: Vec<u32>,
    /// Every node with room, once.
    with_room: BinaryHeap<Reverse<usize>>,
    in_use: u32,
}

impl Nodes {
    pub(crate) fn new(pods_per_node: u32) -> Self {
        Self {
            pods_per_node: pods_per_node.max(1),
            pods: Vec::new(),
            with_room: BinaryHeap::new(),
            in_use: 0,
        }
    }

    /// Nodes with at least one pod.
    pub(crate) fn in_use(&self) -> u32 {
        self.in_use
    }

    /// Places a pod and returns its node.
    pub(crate) fn place(&mut self) -> usize {
        let node = match self.with_room.peek() {
            Some(Reverse(node)) => *node,
            None => {
                self.pods.push(0);
                self.with_room.push(Reverse(self.pods.len() - 1));
                self.pods.len() - 1
            }
        };
        self.in_use += u32::from(self.pods[node] == 0);
        self.pods[node] += 1;
        if self.pods[node] == self.pods_per_node {
            self.with_room.pop();
        }
        node
    }

    /// Removes a pod from its node.
    pub(crate) fn leave(&mut self, node: usize) {
        if self.pods[node] == self.pods_per_node {
            self.with_room.push(Reverse(node));
        }
        self.pods[node] -= 1;
        self.in_use -= u32::from(self.pods[node] == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_fill_the_first_node_with_room() {
        let mut nodes = Nodes::new(2);
        assert_eq!([nodes.place(), nodes.place(), nodes.place()], [0, 0, 1]);
        assert_eq!(nodes.in_use(), 2);
        nodes.leave(0);
        nodes.leave(1);
        assert_eq!(nodes.in_use(), 1);
        assert_eq!([nodes.place(), nodes.place()], [0, 1]);
        nodes.leave(0);
        nodes.leave(0);
        assert_eq!(nodes.in_use(), 1);
    }
}
