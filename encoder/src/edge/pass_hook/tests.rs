//! A back end's answers, and what becomes of the answers with a paused clock.

use super::*;
use admission::pass::question::digest;
use std::sync::atomic::AtomicUsize;
use tokio::sync::watch;
use tokio::time::advance;

const SECOND: Duration = Duration::from_secs(1);
const PASS: &str = "the-pass";

/// What the back end does.
#[derive(Clone, Debug, PartialEq)]
enum Does {
    Says(Answer),
    Fails,
    /// Answers no more.
    Hangs,
}

/// A back end that does as it is told.
struct Scripted {
    does: watch::Receiver<Does>,
    asked: Arc<AtomicUsize>,
}

impl Ask for Scripted {
    async fn ask(&self, question: Question) -> Result<Answer, String> {
        assert!(question.token.starts_with(PASS));
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut does = self.does.clone();
        let does = does.wait_for(|does| *does != Does::Hangs).await.unwrap().clone();
        match does {
            Does::Says(answer) => Ok(answer),
            Does::Fails | Does::Hangs => Err("connection refused".to_owned()),
        }
    }

    fn hosts(&self) -> (&str, Option<&str>) {
        ("edge-1", None)
    }
}

struct Fixture {
    hook: PassHook<Scripted>,
    does: watch::Sender<Does>,
    asked: Arc<AtomicUsize>,
}

impl Fixture {
    fn new(does: Does) -> Self {
        let (does, told) = watch::channel(does);
        let asked = Arc::<AtomicUsize>::default();
        let hook = PassHook::new(Scripted { does: told, asked: asked.clone() });
        Self { hook, does, asked }
    }

    fn judged(&self, pass: &str) -> Judged {
        let question = |server: &str| Question {
            app: "live".into(),
            name: "demo".into(),
            token: pass.to_owned(),
            address: None,
            user_agent: String::new(),
            server: server.to_owned(),
            id: "view_1".into(),
        };
        self.hook.judge(&digest("live", "demo", pass), question, None)
    }

    async fn ask(&self, pass: &str) -> Judgement {
        match self.judged(pass) {
            Judged::Now(judgement) => judgement,
            Judged::Waits(flight) => flight.landed().await.unwrap(),
        }
    }

    /// The judgement of a request that must not wait.
    #[track_caller]
    fn at_once(&self) -> Judgement {
        match self.judged(PASS) {
            Judged::Now(judgement) => judgement,
            Judged::Waits(_) => panic!("the request waits"),
        }
    }

    fn times_asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn does(&self, does: Does) {
        self.does.send_replace(does);
    }

    /// Waits until no question is under way.
    async fn settled(&self) {
        while self.hook.flights.under_way() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

fn yes(seconds: u64) -> Does {
    Does::Says(Answer::Yes(Duration::from_secs(seconds)))
}

#[tokio::test(start_paused = true)]
async fn a_thousand_waiting_viewers_share_one_question() {
    let fixture = Fixture::new(Does::Hangs);
    let waiting: Vec<_> = (0..1000)
        .map(|_| match fixture.judged(PASS) {
            Judged::Waits(flight) => tokio::spawn(flight.landed()),
            Judged::Now(judgement) => panic!("{judgement:?} before the answer"),
        })
        .collect();
    advance(SECOND / 2).await;
    fixture.does(yes(60));
    for viewer in waiting {
        assert_eq!(viewer.await.unwrap(), Some(Judgement::Yes));
    }
    assert_eq!((fixture.at_once(), fixture.times_asked()), (Judgement::Yes, 1));
}

#[tokio::test(start_paused = true)]
async fn an_answer_counts_for_its_time_and_is_renewed_without_a_wait() {
    let fixture = Fixture::new(yes(60));
    assert_eq!(fixture.ask(PASS).await, Judgement::Yes);
    advance(47 * SECOND).await;
    assert_eq!((fixture.at_once(), fixture.times_asked()), (Judgement::Yes, 1));
    advance(2 * SECOND).await;
    assert_eq!(fixture.at_once(), Judgement::Yes, "while the back end is asked");
    fixture.settled().await;
    assert_eq!(fixture.times_asked(), 2);
    fixture.does(Does::Says(Answer::No(10 * SECOND)));
    advance(61 * SECOND).await;
    assert_eq!(fixture.ask(PASS).await, Judgement::No, "nobody asked in time: the viewer waits");
    advance(9 * SECOND).await;
    assert_eq!((fixture.at_once(), fixture.times_asked()), (Judgement::No, 3));
    fixture.does(yes(60));
    advance(SECOND).await;
    assert_eq!((fixture.ask(PASS).await, fixture.times_asked()), (Judgement::Yes, 4));
}

#[tokio::test(start_paused = true)]
async fn the_last_yes_counts_for_ten_minutes_while_the_back_end_is_down() {
    for down in [Does::Hangs, Does::Fails, Does::Says(Answer::Down(503))] {
        let fixture = Fixture::new(yes(60));
        assert_eq!(fixture.ask(PASS).await, Judgement::Yes);
        fixture.does(down.clone());
        advance(60 * SECOND).await;
        let began = Instant::now();
        assert_eq!(fixture.ask(PASS).await, Judgement::Cached, "{down:?}");
        assert!(began.elapsed() <= SECOND, "{:?}", began.elapsed());
        assert_eq!(fixture.ask("the-pass-of-a-newcomer").await, Judgement::Down);
        let asked = fixture.times_asked();
        for _ in 0..100 {
            assert_eq!(fixture.at_once(), Judgement::Cached, "nobody waits any more");
        }
        assert_eq!(fixture.times_asked(), asked);
        advance(11 * SECOND).await;
        assert_eq!(fixture.at_once(), Judgement::Cached);
        // The question that hangs ends after a second.
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(fixture.times_asked(), asked + 1);
        advance(530 * SECOND).await;
        assert_eq!(fixture.ask(PASS).await, Judgement::Down, "ten minutes are over");
        fixture.does(yes(60));
        assert_eq!(fixture.ask(PASS).await, Judgement::Yes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_no_does_not_become_a_yes_while_the_back_end_is_down() {
    let fixture = Fixture::new(yes(5));
    assert_eq!(fixture.ask(PASS).await, Judgement::Yes);
    advance(5 * SECOND).await;
    fixture.does(Does::Says(Answer::No(SECOND)));
    assert_eq!(fixture.ask(PASS).await, Judgement::No);
    fixture.does(Does::Fails);
    advance(SECOND).await;
    assert_eq!(fixture.ask(PASS).await, Judgement::Down);
}

#[tokio::test(start_paused = true)]
async fn passes_that_a_stranger_makes_up_cost_the_back_end_little() {
    let fixture = Fixture::new(Does::Says(Answer::No(10 * SECOND)));
    let mut refused = 0;
    for number in 0..1000 {
        refused += usize::from(fixture.ask(&format!("{PASS}-{number}")).await == Judgement::Refused);
    }
    assert!(refused > 900 && fixture.times_asked() == 1000 - refused, "{refused}");
    fixture.does(yes(60));
    let others = Fixture::new(yes(60));
    for number in 0..1000 {
        assert_eq!(
            others.ask(&format!("{PASS}-{number}")).await,
            Judgement::Yes,
            "valid passes cost nothing"
        );
    }
}
