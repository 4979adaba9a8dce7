//! Pages for operators name what there is: metrics, log lines and tests. What a page says beyond names is proved by the
//! tests that the page names.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::path::Path;
use tests::encoder_process::workspace;

/// One row of a table: its cells, by the heads of their columns.
struct Row {
    heads: Vec<String>,
    cells: Vec<String>,
}

impl Row {
    /// The cell below this head; `None` if the table has no such column.
    fn cell(&self, head: &str) -> Option<&str> {
        let at = self.heads.iter().position(|name| name == head)?;
        self.cells.get(at).map(String::as_str)
    }
}

fn read(path: &str) -> String {
    let path = workspace().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn cells(line: &str) -> Vec<String> {
    line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// The rows of all tables of a page.
fn rows(page: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut heads: Option<Vec<String>> = None;
    for line in page.lines() {
        if !line.starts_with('|') {
            heads = None;
        } else if line.starts_with("|---") {
            // The rule below the heads.
        } else if let Some(heads) = &heads {
            rows.push(Row { heads: heads.clone(), cells: cells(line) });
        } else {
            heads = Some(cells(line));
        }
    }
    rows
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Every line of every Rust file below these folders but comments, with texts that go on in the next line in one line.
fn source(folders: &[&str]) -> Vec<String> {
    fn add(folder: &Path, lines: &mut Vec<String>) {
        let entries =
            std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                if !path.ends_with("target") {
                    add(&path, lines);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let mut whole = String::new();
                for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
                    let continues = line.strip_suffix('\\');
                    whole.push_str(if whole.is_empty() { line } else { line.trim_start() });
                    match continues {
                        Some(_) => drop(whole.pop()),
                        None => lines.push(std::mem::take(&mut whole)),
                    }
                }
            }
        }
    }
    let mut lines = Vec::new();
    folders.iter().for_each(|folder| add(&workspace().join(folder), &mut lines));
    lines
}

/// The crates of which the binary is made.
const PRODUCT: [&str; 10] = [
    "admission/src",
    "audience/src",
    "encoder/src",
    "hls/src",
    "listen/src",
    "probes/src",
    "publisher/src",
    "rtmp/src",
    "store/src",
    "transcode/src",
];

/// Whether a line contains a text, in which `…` stands for anything.
fn is_said(lines: &[String], text: &str) -> bool {
    lines.iter().any(|line| {
        let mut rest = line.as_str();
        text.split('…').map(str::trim).all(|part| {
            let found = rest.find(part);
            rest = found.map_or("", |at| &rest[at + part.len()..]);
            found.is_some()
        })
    })
}

/// What is wrong with a metric as pages write one: `encoder_x_total{result="failed"}`, or `{call}` for a label alone.
fn wrong_metric(product: &[String], described: &str, metric: &str) -> Option<String> {
    let (name, labels) = metric.split_once('{').unwrap_or((metric, ""));
    if !described.contains(&format!("\"{name}\"")) {
        return Some(format!("there is no metric {name}"));
    }
    let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
    labels.map(|label| label.split_once('=').unwrap_or((label, ""))).find_map(|(key, value)| {
        let has_key = product.iter().any(|line| line.contains(&format!("\"{key}\" => ")));
        let has_value = value.is_empty() || product.iter().any(|line| line.contains(value));
        (!has_key || !has_value).then(|| format!("{name} has no label {key}={value}"))
    })
}

/// Names of tests in a cell: words with underscores, of which `…` may leave out the end.
fn named_tests(cell: &str) -> impl Iterator<Item = &str> {
    let words = cell.split([' ', ',', ';', '(', ')', '`']);
    words.map(|word| word.trim_end_matches(['.', ':'])).filter(|word| {
        let mut letters = word.trim_end_matches('…').chars();
        word.matches('_').count() >= 2
            && letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    })
}

/// Names of the functions of all crates.
fn functions() -> BTreeSet<String> {
    let crates = [
        "capacity/src",
        "encoder/tests",
        "media/src",
        "hls/tests",
        "rtmp/tests",
        "store/tests",
        "transcode/tests",
    ];
    let there = crates.into_iter().filter(|folder| workspace().join(folder).is_dir());
    let folders: Vec<&str> = PRODUCT.into_iter().chain(there).chain(["tests/src", "tests/tests"]).collect();
    let lines = source(&folders);
    let name = |line: &String| {
        let (_, rest) = line.split_once("fn ")?;
        Some(rest.split(['(', '<']).next()?.to_owned())
    };
    lines.iter().filter_map(name).collect()
}

fn is_function(functions: &BTreeSet<String>, name: &str) -> bool {
    match name.strip_suffix('…') {
        Some(start) => {
            functions.range(start.to_owned()..).next().is_some_and(|first| first.starts_with(start))
        }
        None => functions.contains(name),
    }
}

#[test]
fn what_the_page_on_failures_names_exists() {
    let (product, functions) = (source(&PRODUCT), functions());
    let described = read("encoder/src/telemetry.rs");
    let rows = rows(&read("docs/failure.md"));
    assert!(rows.len() > 25, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        let fault = &row.cells[0];
        let mut complain = |what: String| wrong.push(format!("{fault}: {what}"));
        for text in quoted(row.cell("log").unwrap()).into_iter().filter(|text| !is_said(&product, text)) {
            complain(format!("nothing says '{text}'"));
        }
        for text in quoted(row.cell("metrics").unwrap()) {
            if text.starts_with("encoder_") {
                wrong_metric(&product, &described, text).into_iter().for_each(&mut complain);
            } else if !is_said(&product, &format!("\"{text}\"")) {
                complain(format!("no label has the value '{text}'"));
            }
        }
        let tests: Vec<_> = named_tests(row.cell("test").unwrap()).collect();
        for name in tests.iter().filter(|name| !is_function(&functions, name)) {
            complain(format!("there is no test {name}"));
        }
        let binaries = quoted(row.cell("test").unwrap());
        if tests.is_empty() && binaries.is_empty() {
            complain("no test is named".to_owned());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every metric that a page names is one.
#[test]
fn metrics_in_pages_exist() {
    let described = read("encoder/src/telemetry.rs");
    let gauges = source(&["probes/src"]);
    let mut wrong = BTreeSet::new();
    let mut pages = vec!["README.md".to_owned(), "ARCHITECTURE.md".to_owned()];
    let docs = std::fs::read_dir(workspace().join("docs")).unwrap();
    pages.extend(docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().to_str().unwrap())));
    for page in pages.iter().filter(|page| page.ends_with(".md")) {
        let text = read(page);
        let words = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
        for word in words.filter(|word| word.starts_with("encoder_") && !word.ends_with('_')) {
            let name =
                ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
            let quoted = format!("\"{name}\"");
            if !described.contains(&quoted) && !gauges.iter().any(|line| line.contains(&quoted)) {
                wrong.insert(format!("{page}: {word}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The tables of tests/README.md name tests that there are.
#[test]
fn tests_in_the_tables_of_claims_exist() {
    let functions = functions();
    let rows = rows(&read("tests/README.md"));
    let named: Vec<&str> = rows.iter().filter_map(|row| row.cell("test")).flat_map(named_tests).collect();
    assert!(named.len() > 40, "{} tests", named.len());
    let missing: Vec<_> = named.iter().filter(|name| !is_function(&functions, name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let unproved: Vec<_> = rows
        .iter()
        .filter_map(|row| Some((row.cell("claim")?, row.cell("test")?)))
        .filter(|(_, test)| named_tests(test).next().is_none() && quoted(test).is_empty())
        .collect();
    assert!(unproved.is_empty(), "{unproved:?}");
}
