//! Composes one object from many, although a store takes only [`MAX_SOURCES`] at a time: a tree of compositions,
//! planned here and carried out with bounded concurrency. A piece's name identifies its contents, so pieces left by an
//! earlier attempt are not made again.

use super::each::{Failure, each, persist};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use store::{Caching, Listed, MAX_SOURCES, ObjectName, Store};

/// Concurrent compositions.
const AT_A_TIME: usize = 16;

/// An object and its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The object's name.
    pub name: ObjectName,
    /// The object's size in bytes.
    pub bytes: u64,
}

/// One call of [`Store::compose`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The object to be made.
    pub target: Piece,
    /// The source objects, in order.
    pub sources: Vec<Piece>,
}

/// The steps that make one object of `sources`, level by level; each level needs the results of the level before. At
/// most one step for each 31 sources, and one more for each level. `part` names the intermediate objects, by level and
/// index.
pub(crate) fn plan(
    sources: Vec<Piece>,
    target: ObjectName,
    part: impl Fn(usize, usize) -> ObjectName,
) -> Vec<Vec<Step>> {
    let bytes = sources.iter().map(|piece| piece.bytes).sum();
    let (mut levels, mut pieces) = (Vec::new(), sources);
    while pieces.len() > MAX_SOURCES {
        let (mut steps, mut next) = (Vec::new(), Vec::new());
        for (index, group) in pieces.chunks(MAX_SOURCES).enumerate() {
            if let [alone] = group {
                next.push(alone.clone());
                continue;
            }
            let bytes = group.iter().map(|piece| piece.bytes).sum();
            let target = Piece { name: part(levels.len(), index), bytes };
            next.push(target.clone());
            steps.push(Step { target, sources: group.to_vec() });
        }
        levels.push(steps);
        pieces = next;
    }
    levels.push(vec![Step { target: Piece { name: target, bytes }, sources: pieces }]);
    levels
}

/// Drops steps whose targets exist already, and steps that only those needed. `there` are the existing objects.
pub(crate) fn missing(mut levels: Vec<Vec<Step>>, there: &[Listed]) -> Vec<Vec<Step>> {
    let there: BTreeMap<_, _> = there.iter().map(|listed| (&listed.name, listed.size)).collect();
    let mut needed: Option<HashSet<ObjectName>> = None;
    for level in levels.iter_mut().rev() {
        level.retain(|step| {
            let wanted = needed.as_ref().is_none_or(|needed| needed.contains(&step.target.name));
            // The last step is always executed: its target's name does not identify its contents.
            wanted && (needed.is_none() || there.get(&step.target.name) != Some(&step.target.bytes))
        });
        let sources = level.iter().flat_map(|step| &step.sources).map(|piece| piece.name.clone());
        needed.get_or_insert_default().extend(sources);
    }
    levels
}

/// Executes the steps; returns their number.
pub(crate) async fn carry_out(
    store: &Arc<dyn Store>,
    levels: Vec<Vec<Step>>,
    content_type: &'static str,
    caching: Caching,
) -> Result<u64, Failure> {
    let mut done = 0;
    for level in levels {
        done += level.len() as u64;
        each(level, AT_A_TIME, |step| {
            let store = store.clone();
            async move {
                let sources: Vec<_> = step.sources.into_iter().map(|piece| piece.name).collect();
                persist(&step.target.name, || {
                    store.compose(&step.target.name, &sources, content_type, caching)
                })
                .await
            }
        })
        .await?;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(count: usize) -> Vec<Piece> {
        let piece = |n| Piece { name: ObjectName::new(format!("s/{n}")), bytes: n as u64 + 1 };
        (0..count).map(piece).collect()
    }

    fn planned(count: usize) -> Vec<Vec<Step>> {
        plan(pieces(count), ObjectName::new("whole"), |level, index| {
            ObjectName::new(format!("p/{level}-{index}"))
        })
    }

    /// Follows the tree down to the sources of an object.
    fn leaves(levels: &[Vec<Step>], piece: &Piece) -> Vec<Piece> {
        match levels.iter().flatten().find(|step| step.target.name == piece.name) {
            None => vec![piece.clone()],
            Some(step) => step.sources.iter().flat_map(|source| leaves(levels, source)).collect(),
        }
    }

    #[test]
    fn every_source_is_in_it_once_and_in_order() {
        for count in [1, 2, 31, 32, 33, 64, 65, 1_023, 1_024, 1_025, 2_100] {
            let levels = planned(count);
            let whole = &levels.last().unwrap()[0].target;
            assert_eq!(leaves(&levels, whole), pieces(count), "{count}");
            assert_eq!(whole.bytes, pieces(count).iter().map(|piece| piece.bytes).sum::<u64>());
            assert!(levels.iter().flatten().all(|step| (1..=MAX_SOURCES).contains(&step.sources.len())));
        }
    }

    #[test]
    fn three_hours_take_a_request_for_thirty_objects() {
        let sources = 1 + 2 * 3 * 3600;
        let steps = planned(sources).iter().flatten().count();
        assert!(steps <= sources / 30, "{steps} for {sources}");
        assert_eq!(planned(20).len(), 1);
    }

    #[test]
    fn what_is_there_is_not_made_again() {
        let levels = planned(1_100);
        let all: Vec<_> = levels.iter().flatten().map(|step| step.target.clone()).collect();
        let listed = |piece: &Piece| Listed { name: piece.name.clone(), size: piece.bytes };
        let there: Vec<_> = all[..10].iter().map(listed).collect();
        let left = missing(levels.clone(), &there);
        assert_eq!(left.iter().flatten().count(), all.len() - 10);
        // If all targets of the second level exist, those of the first are not needed.
        let above: Vec<_> = levels[1].iter().map(|step| listed(&step.target)).collect();
        let left = missing(levels.clone(), &above);
        assert_eq!(left[1].len(), 0);
        assert!(left[0].len() <= 1 && left[2].len() == 1, "{left:?}");
        let cut = Listed { size: 3, ..listed(&all[0]) };
        assert_eq!(
            missing(levels, &[cut]).iter().flatten().count(),
            all.len(),
            "another size is another object"
        );
    }
}
