use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const WIDE: Bounds = Bounds { total: 100, per_second: 10.0, burst: 1e6, held: 8, held_per_source: 5 };

fn source(n: u32) -> Source {
    Source::V4(Ipv4Addr::from_bits(n))
}

fn by_source(table: &FairnessTable) -> BTreeMap<Source, usize> {
    table.ranks.iter().map(|rank| (rank.source, rank.connections)).collect()
}

fn fill(table: &mut FairnessTable, of: Source, count: usize, now: Instant) -> Vec<ConnectionId> {
    (0..count).map(|n| table.enter(of, now + Duration::from_millis(n as u64), 0.999).unwrap().id).collect()
}

#[test]
fn a_source_is_what_one_party_holds() {
    let of = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
    assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:2"));
    assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
}

#[test]
fn one_source_may_hold_everything_while_there_is_room() {
    let (mut table, now) = (FairnessTable::new(WIDE), Instant::now());
    for _ in 0..75 {
        assert_eq!(table.enter(source(1), now, 0.0).unwrap().evicted, None);
    }
    assert_eq!(table.enter(source(1), now, 0.0), Err(Refused::EarlyDrop));
    assert_eq!(table.enter(source(1), now, 0.02).unwrap().evicted, None, "little fill, little probability");
    assert_eq!(table.enter(source(2), now, 0.0).unwrap().evicted, None);
}

#[test]
fn who_holds_most_gives_way_with_its_longest_idle_connection() {
    let (mut table, now) = (FairnessTable::new(WIDE), Instant::now());
    let many = fill(&mut table, source(1), 95, now);
    let few = fill(&mut table, source(2), 5, now - Duration::from_secs(9));
    table.progress(many[0], now + Duration::from_secs(1));
    table.busy(many[1], now);
    let admitted = table.enter(source(3), now, 0.0).unwrap();
    assert_eq!(admitted.evicted, Some(many[2]), "not the longest idle of all, which is another source's");
    // The source that holds most may come in, at its own expense, in half of the cases.
    assert_eq!(table.enter(source(1), now, 0.4), Err(Refused::EarlyDrop));
    assert_eq!(table.enter(source(1), now, 0.5).unwrap().evicted, Some(many[3]));
    assert_eq!(table.len(), 100);
    assert!(table.leave(few[0], now) && !table.leave(few[0], now));
}

#[test]
fn of_many_sources_the_longest_idle_connection_gives_way() {
    let (mut table, now) = (FairnessTable::new(WIDE), Instant::now());
    let ids: Vec<_> = (0..100).flat_map(|n| fill(&mut table, source(n), 1, now)).collect();
    table.progress(ids[0], now + Duration::from_secs(2));
    table.progress(ids[7], now - Duration::from_secs(2));
    assert_eq!(table.enter(source(500), now, 0.0).unwrap().evicted, Some(ids[7]));
}

#[test]
fn busy_connections_stay_while_one_is_idle() {
    let (mut table, now) = (FairnessTable::new(WIDE), Instant::now());
    let busy = fill(&mut table, source(1), 99, now);
    busy.iter().for_each(|id| table.busy(*id, now));
    let idle = fill(&mut table, source(2), 1, now)[0];
    assert_eq!(
        table.enter(source(1), now, 0.999),
        Err(Refused::Full),
        "not at the expense of who holds fewer"
    );
    assert_eq!(table.enter(source(3), now, 0.0).unwrap().evicted, Some(idle));
    for n in 3..=4 {
        let id = table.enter(source(n), now, 0.0).unwrap().id;
        table.busy(id, now);
    }
    assert_eq!(by_source(&table)[&source(1)], 98, "no connection was idle");
}

#[test]
fn a_source_opens_so_many_connections_a_second() {
    let mut table = FairnessTable::new(Bounds { burst: 20.0, ..WIDE });
    let now = Instant::now();
    let ids = fill(&mut table, source(1), 20, now);
    let later = now + Duration::from_millis(20);
    assert_eq!(table.enter(source(1), later, 0.9), Err(Refused::Rate));
    assert!(table.enter(source(2), later, 0.9).is_ok());
    assert!(table.enter(source(1), later + Duration::from_millis(100), 0.9).is_ok());
    // The bucket outlives the connections, and is forgotten once it is full.
    for id in ids {
        table.leave(id, later);
    }
    assert_eq!(table.enter(source(1), later + Duration::from_millis(101), 0.9), Err(Refused::Rate));
}

#[test]
fn sources_without_connections_are_forgotten() {
    let mut table = FairnessTable::new(Bounds { burst: 2.0, ..WIDE });
    let mut now = Instant::now();
    for n in 0..10_000 {
        now += Duration::from_micros(10);
        let id = table.enter(source(n), now, 0.9).unwrap().id;
        table.leave(id, now);
        assert!(table.sources() <= WIDE.total);
    }
    let id = table.enter(source(0), now + Duration::from_secs(1), 0.9).unwrap().id;
    assert_eq!(table.sources(), 1);
    table.leave(id, now);
}

#[test]
fn held_requests_are_bounded_in_all_and_for_each_source() {
    let (mut table, now) = (FairnessTable::new(WIDE), Instant::now());
    let held = |table: &mut FairnessTable, n| (0..10).filter(|_| table.hold(source(n), now)).count();
    assert_eq!((held(&mut table, 1), held(&mut table, 2)), (5, 3));
    table.release(source(1), now);
    assert!(table.hold(source(3), now) && !table.hold(source(3), now));
    table.release(source(9), now);
    assert_eq!(table.held(), 8);
}

#[derive(Clone, Debug)]
enum Step {
    Enter(u32, f64),
    Leave(usize),
    Busy(usize),
    Idle(usize),
    Progress(usize),
    Hold(u32),
    Release(u32),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..12u32, 0.0..1.0).prop_map(|(source, chance)| Step::Enter(source.saturating_sub(6), chance)),
        2 => any::<usize>().prop_map(Step::Leave),
        2 => any::<usize>().prop_map(Step::Busy),
        1 => any::<usize>().prop_map(Step::Idle),
        1 => any::<usize>().prop_map(Step::Progress),
        1 => (0..6u32).prop_map(Step::Hold),
        1 => (0..6u32).prop_map(Step::Release),
        1 => (0..2_000u64).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 0..300)
}

/// The table as its documentation describes it, without any order kept.
#[derive(Default)]
struct Model {
    open: BTreeMap<ConnectionId, (Source, bool)>,
    held: BTreeMap<Source, usize>,
}

impl Model {
    fn count(&self, source: Source) -> usize {
        self.open.values().filter(|(of, _)| *of == source).count()
    }

    fn pick(&self, n: usize) -> Option<ConnectionId> {
        let n = n.checked_rem(self.open.len())?;
        self.open.keys().nth(n).copied()
    }

    fn enter(&mut self, table: &mut FairnessTable, source: Source, now: Instant, chance: f64) {
        let (count, sources) = (self.count(source), by_source(table).len());
        let is_below_average = count * sources < self.open.len();
        let is_full = self.open.len() == table.bounds.total;
        match table.enter(source, now, chance) {
            Ok(Admitted { id, evicted }) => {
                assert_eq!(evicted.is_some(), is_full);
                if let Some((of, busy)) = evicted.and_then(|evicted| self.open.remove(&evicted)) {
                    assert!(!busy || self.open.values().all(|(_, busy)| *busy), "busy only if none is idle");
                    assert!(busy || is_below_average || self.count(of) + 1 >= count);
                }
                self.open.insert(id, (source, false));
            }
            Err(Refused::Rate) => {}
            Err(Refused::EarlyDrop | Refused::Full) => {
                assert!(!is_below_average, "a newcomer from a source below the average is admitted");
                assert!(self.open.len() >= table.bounds.total - table.bounds.total / 4);
            }
        }
    }
}

proptest! {
    #[test]
    fn the_table_keeps_its_promises(steps in steps(), total in 1..24usize) {
        let bounds = Bounds { total, burst: 16.0, held: 6, held_per_source: 3, ..WIDE };
        let (mut table, mut model, mut now) = (FairnessTable::new(bounds), Model::default(), Instant::now());
        for step in steps {
            match step {
                Step::Enter(n, chance) => model.enter(&mut table, source(n), now, chance),
                Step::Leave(n) => if let Some(id) = model.pick(n) {
                    prop_assert!(table.leave(id, now));
                    model.open.remove(&id);
                },
                Step::Busy(n) | Step::Idle(n) => if let Some(id) = model.pick(n) {
                    let busy = matches!(step, Step::Busy(_));
                    if busy { table.busy(id, now) } else { table.idle(id, now) }
                    model.open.get_mut(&id).unwrap().1 = busy;
                },
                Step::Progress(n) => if let Some(id) = model.pick(n) { table.progress(id, now) },
                Step::Hold(n) => if table.hold(source(n), now) { *model.held.entry(source(n)).or_default() += 1 },
                Step::Release(n) => {
                    let held = model.held.entry(source(n)).or_default();
                    *held = held.saturating_sub(1);
                    table.release(source(n), now);
                }
                Step::Pass(ms) => now += Duration::from_millis(ms),
            }
            prop_assert!(table.len() <= total);
            prop_assert_eq!(table.len(), model.open.len());
            prop_assert_eq!(table.held(), model.held.values().sum::<usize>());
            prop_assert!(table.sources() <= 2 * total + bounds.held);
            for (source, count) in by_source(&table) {
                prop_assert_eq!(count, model.count(source));
            }
        }
        for id in model.open.keys() {
            table.leave(*id, now);
        }
        for (source, held) in &model.held {
            (0..*held).for_each(|_| table.release(*source, now));
        }
        table.forget(now + Duration::from_secs(1_000));
        prop_assert_eq!((table.len(), table.held(), table.sources(), table.ranks.len()), (0, 0, 0, 0));
    }
}
