//! `encoder bucket check`: which settings of a bucket are wrong for live streams, and the commands that correct them.
//! The permissions of the account are proved when a bucket is opened (`super::open`); this module judges the bucket's
//! settings, which no encoder changes.
//!
//! Reading and judging are separate: [`look`] reads the [`Facts`] from the bucket, [`judge`] is pure.

use super::error::{ErrorKind, kind, text};
use super::open::patiently;
use super::{BucketError, BucketLocation, GcsStore};
use google_cloud_gax::options::RequestOptionsBuilder as _;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::model::Bucket;
use std::time::Duration;
use tokio::time::Instant;

/// Time-out of all calls together.
const CHECK_WITHIN: Duration = Duration::from_secs(30);
/// Response headers that a player page's scripts read: lengths for bandwidth, age and date for the live edge.
const EXPOSED: [&str; 6] = ["Content-Length", "Content-Range", "Content-Type", "Age", "Date", "ETag"];
/// Roles that let members read objects.
const READING: [&str; 5] = [
    "roles/storage.objectViewer",
    "roles/storage.legacyObjectReader",
    "roles/storage.objectUser",
    "roles/storage.objectAdmin",
    "roles/storage.admin",
];

/// A cross-origin rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// Allowed origins; `*` allows every origin.
    pub origins: Vec<String>,
    /// Allowed methods.
    pub methods: Vec<String>,
    /// Response headers that scripts may read.
    pub headers: Vec<String>,
}

/// The settings of a bucket that matter for live streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Cross-origin rules.
    pub cors: Vec<Cors>,
    /// How long deleted or overwritten objects are kept, and paid for.
    pub soft_delete: Duration,
    /// Whether old versions are kept.
    pub versioning: bool,
    /// Ages in days at which objects are deleted.
    pub delete_after_days: Vec<i32>,
    /// Whether permissions are set on the bucket alone, not per object.
    pub uniform_access: bool,
    /// Whether public access is forbidden.
    pub public_access_prevented: bool,
    /// Whether the public may read; `None` if this account is not allowed to see the policy.
    pub public: Option<bool>,
    /// Whether a retention policy forbids replacing objects for some time.
    pub retention: bool,
    /// Whether new objects are placed on hold.
    pub held: bool,
    /// Whether readers pay for requests.
    pub requester_pays: bool,
    /// The storage class of new objects.
    pub storage_class: String,
}

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Live streams do not work, or cost a multiple.
    Wrong,
    /// Live streams work, but another setting would be better.
    Advice,
}

/// One finding about a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The severity.
    pub weight: Weight,
    /// The finding and its consequence.
    pub what: &'static str,
    /// Shell commands that correct the setting.
    pub commands: Vec<String>,
}

/// Reads a bucket's settings. Requires storage.buckets.get, and storage.buckets.getIamPolicy to find out whether the
/// bucket is public.
pub async fn look(location: BucketLocation, endpoint: Option<&str>) -> Result<Facts, BucketError> {
    let deadline = Instant::now() + CHECK_WITHIN;
    let bucket_name = location.bucket().to_owned();
    let store = GcsStore::connect(location, endpoint, deadline).await?;
    let get = async || {
        store.control.get_bucket().set_name(&store.resource).with_retry_policy(NeverRetry).send().await
    };
    let bucket = patiently(deadline, get).await.map_err(|error| match kind(&error) {
        ErrorKind::Missing => BucketError::NoBucket(bucket_name.clone()),
        ErrorKind::Unauthenticated => BucketError::Credentials(text(&error)),
        ErrorKind::Forbidden => BucketError::Forbidden {
            bucket: bucket_name.clone(),
            permissions: "storage.buckets.get".into(),
            role: "roles/storage.bucketViewer",
            said: text(&error),
        },
        ErrorKind::Passing => BucketError::Unreachable(text(&error)),
        ErrorKind::BadRequest | ErrorKind::Precondition | ErrorKind::Lasting => {
            BucketError::Refused(text(&error))
        }
    })?;
    let policy = async || {
        store
            .control
            .get_iam_policy()
            .set_resource(&store.resource)
            .with_retry_policy(NeverRetry)
            .send()
            .await
    };
    let public = patiently(deadline, policy).await.ok().map(|policy| {
        policy.bindings.iter().any(|binding| {
            // Conditions on a binding are ignored: a conditional grant counts as public, and its author has to know
            // when the condition applies.
            READING.contains(&binding.role.as_str())
                && binding.members.iter().any(|member| member == "allUsers")
        })
    });
    Ok(Facts { public, ..facts(bucket) })
}

fn facts(bucket: Bucket) -> Facts {
    let rules = bucket.lifecycle.map(|lifecycle| lifecycle.rule).unwrap_or_default();
    let access = bucket.iam_config.unwrap_or_default();
    let soft_delete = bucket.soft_delete_policy.and_then(|policy| policy.retention_duration);
    Facts {
        cors: bucket
            .cors
            .into_iter()
            .map(|cors| Cors { origins: cors.origin, methods: cors.method, headers: cors.response_header })
            .collect(),
        soft_delete: Duration::from_secs(soft_delete.map_or(0, |span| span.seconds().unsigned_abs())),
        versioning: bucket.versioning.is_some_and(|versioning| versioning.enabled),
        delete_after_days: rules
            .into_iter()
            .filter(|rule| rule.action.as_ref().is_some_and(|action| action.r#type == "Delete"))
            .filter_map(|rule| rule.condition?.age_days)
            .collect(),
        uniform_access: access.uniform_bucket_level_access.is_some_and(|uniform| uniform.enabled),
        public_access_prevented: access.public_access_prevention == "enforced",
        public: None,
        retention: bucket.retention_policy.is_some(),
        held: bucket.default_event_based_hold,
        requester_pays: bucket.billing.is_some_and(|billing| billing.requester_pays),
        storage_class: bucket.storage_class,
    }
}

/// Returns the settings that are wrong, worst first.
pub fn judge(facts: &Facts, bucket: &str) -> Vec<Finding> {
    let update = |flags: &str| format!("gcloud storage buckets update gs://{bucket} {flags}");
    let mut findings = Vec::new();
    let mut find = |weight, what, commands: &[String]| {
        findings.push(Finding { weight, what, commands: commands.to_vec() });
    };
    if facts.retention {
        find(
            Weight::Wrong,
            "it has a retention policy: playlists cannot be rewritten",
            &[update("--clear-retention-period")],
        );
    }
    if facts.held {
        find(
            Weight::Wrong,
            "new objects are held: playlists cannot be rewritten",
            &[update("--no-default-event-based-hold")],
        );
    }
    if !facts.cors.iter().any(lets_players_in) {
        find(
            Weight::Wrong,
            "no cross-origin rule lets every page GET and HEAD and see lengths, age and date: players on other sites fail, \
             or misjudge bandwidth and the live edge",
            &[format!("cat > cors.json <<'JSON'\n{}\nJSON", cors_file()), update("--cors-file=cors.json")],
        );
    }
    if facts.soft_delete > Duration::ZERO {
        find(
            Weight::Wrong,
            "soft delete is on: every version of every playlist and every removed segment is kept and paid for days",
            &[update("--clear-soft-delete")],
        );
    }
    if facts.versioning {
        find(
            Weight::Wrong,
            "versioning is on: every version of every playlist is kept and paid for ever",
            &[update("--no-versioning")],
        );
    }
    if facts.requester_pays {
        find(Weight::Wrong, "readers have to pay: players cannot", &[update("--no-requester-pays")]);
    }
    let everybody = format!(
        "gcloud storage buckets add-iam-policy-binding gs://{bucket} --member=allUsers --role=roles/storage.objectViewer"
    );
    match facts.public {
        Some(true) if facts.public_access_prevented => find(
            Weight::Wrong,
            "everybody is meant to read it, and public access prevention forbids that",
            &[update("--no-public-access-prevention")],
        ),
        Some(false) if facts.public_access_prevented => find(
            Weight::Advice,
            "it is not public: players get 403, unless a CDN reads it with an account of its own",
            &[update("--no-public-access-prevention"), everybody],
        ),
        Some(false) => find(
            Weight::Advice,
            "it is not public: players get 403, unless a CDN reads it with an account of its own",
            &[everybody],
        ),
        None => find(
            Weight::Advice,
            "this account may not know whether it is public (storage.buckets.getIamPolicy): look yourself",
            &[format!("gcloud storage buckets get-iam-policy gs://{bucket}")],
        ),
        Some(true) => {}
    }
    if !facts.uniform_access {
        find(
            Weight::Advice,
            "objects have access lists of their own: what this check says about permissions need not hold for each",
            &[update("--uniform-bucket-level-access")],
        );
    }
    if !matches!(facts.storage_class.as_str(), "STANDARD" | "") {
        find(
            Weight::Advice,
            "its storage class has a price for removing objects early",
            &[update("--default-storage-class=STANDARD")],
        );
    }
    if facts.delete_after_days.iter().any(|days| *days < 2) {
        find(
            Weight::Wrong,
            "a lifecycle rule deletes objects within a day or two, perhaps under a running stream",
            &[format!("gcloud storage buckets describe gs://{bucket} --format='default(lifecycle_config)'")],
        );
    }
    if facts.delete_after_days.is_empty() {
        find(
            Weight::Advice,
            "no lifecycle rule: what a crashed encoder leaves stays for ever (30 days here: as long as archives are wanted)",
            &[
                format!("cat > lifecycle.json <<'JSON'\n{LIFECYCLE}\nJSON"),
                update("--lifecycle-file=lifecycle.json"),
            ],
        );
    }
    findings.sort_by_key(|finding| finding.weight);
    findings
}

const LIFECYCLE: &str = r#"{"rule": [{"action": {"type": "Delete"}, "condition": {"age": 30}}]}"#;

fn lets_players_in(cors: &Cors) -> bool {
    let has = |list: &[String], wanted: &str| list.iter().any(|item| item.eq_ignore_ascii_case(wanted));
    has(&cors.origins, "*")
        && ["GET", "HEAD"].iter().all(|method| has(&cors.methods, method) || has(&cors.methods, "*"))
        && EXPOSED.iter().all(|header| has(&cors.headers, header) || has(&cors.headers, "*"))
}

fn cors_file() -> String {
    let headers: Vec<_> = EXPOSED.iter().map(|header| format!("{header:?}")).collect();
    format!(
        r#"[{{"origin": ["*"], "method": ["GET", "HEAD"], "responseHeader": [{}], "maxAgeSeconds": 3600}}]"#,
        headers.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Facts {
            cors: vec![Cors {
                origins: words(&["*"]),
                methods: words(&["GET", "HEAD"]),
                headers: words(&EXPOSED),
            }],
            delete_after_days: vec![30],
            uniform_access: true,
            public: Some(true),
            storage_class: "STANDARD".into(),
            ..Facts::default()
        }
    }

    fn commands(facts: &Facts) -> String {
        judge(facts, "b").into_iter().flat_map(|finding| finding.commands).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn nothing_is_wrong_with_a_good_bucket() {
        assert_eq!(judge(&good(), "b"), []);
    }

    #[test]
    fn each_fault_is_found_with_what_mends_it() {
        let cases: [(Facts, &str); 10] = [
            (Facts { cors: Vec::new(), ..good() }, "--cors-file=cors.json"),
            (Facts { soft_delete: Duration::from_secs(604_800), ..good() }, "--clear-soft-delete"),
            (Facts { versioning: true, ..good() }, "--no-versioning"),
            (Facts { delete_after_days: Vec::new(), ..good() }, "--lifecycle-file"),
            (Facts { uniform_access: false, ..good() }, "--uniform-bucket-level-access"),
            (Facts { public: Some(false), ..good() }, "--member=allUsers"),
            (Facts { public_access_prevented: true, ..good() }, "--no-public-access-prevention"),
            (Facts { retention: true, ..good() }, "--clear-retention-period"),
            (Facts { requester_pays: true, ..good() }, "--no-requester-pays"),
            (Facts { storage_class: "NEARLINE".into(), ..good() }, "--default-storage-class=STANDARD"),
        ];
        for (facts, flag) in cases {
            assert!(commands(&facts).contains(flag), "{flag}: {:?}", judge(&facts, "b"));
        }
    }

    #[test]
    fn new_buckets_lack_the_most() {
        let new = Facts {
            soft_delete: Duration::from_secs(604_800),
            uniform_access: true,
            public_access_prevented: true,
            public: Some(false),
            ..Facts::default()
        };
        let findings = judge(&new, "b");
        assert_eq!(
            findings.iter().filter(|finding| finding.weight == Weight::Wrong).count(),
            2,
            "{findings:?}"
        );
        assert!(findings.is_sorted_by_key(|finding| finding.weight));
    }

    #[test]
    fn the_cross_origin_rule_is_json_and_good() {
        let rules: serde_json::Value = serde_json::from_str(&cors_file()).unwrap();
        let list = |name: &str| {
            rules[0][name].as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
        };
        let cors = Cors { origins: list("origin"), methods: list("method"), headers: list("responseHeader") };
        assert!(lets_players_in(&cors));
        serde_json::from_str::<serde_json::Value>(LIFECYCLE).unwrap();
    }
}
