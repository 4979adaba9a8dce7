//! Embeds the built player page (`web/dist`) in the binary. Without it a page is embedded that says how to build it,
//! so that `cargo build` alone always works.

use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::path::{Path, PathBuf};

const NO_PAGE: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>encoder</title>\
<h1>encoder</h1><p>The player page was not built into this binary. Run <code>make web</code> and build again.</p>\
<p>Streams that are live: <a href=/streams.json>streams.json</a>.</p>\n";

fn main() {
    let dist = Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../web/dist");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-changed=build.rs");
    // The folder above exists always: cargo would rerun for ever for a path that does not.
    println!(
        "cargo::rerun-if-changed={}",
        if dist.exists() { dist.clone() } else { dist.join("..") }.display()
    );

    let mut files = listed(&dist);
    if !files.iter().any(|path| path.ends_with("index.html")) {
        println!("cargo::warning=web/dist is missing: the player page is left out (make web builds it)");
        let page = out.join("index.html");
        fs::write(&page, NO_PAGE).expect("OUT_DIR can be written");
        files = vec![page];
    }

    let mut code = String::from("static ASSETS: &[Asset] = &[\n");
    for path in files {
        let name = path.file_name().and_then(|name| name.to_str()).expect("built files have plain names");
        let body = fs::read(&path).expect("a listed file can be read");
        let mut hasher = DefaultHasher::new();
        hasher.write(&body);
        let etag = format!("W/\"{:016x}\"", hasher.finish());
        let path = fs::canonicalize(&path).expect("a listed file exists");
        writeln!(
            code,
            "    Asset {{ name: {name:?}, kind: {:?}, etag: {etag:?}, body: include_bytes!({path:?}) }},",
            content_type(name)
        )
        .expect("writing to a string cannot fail");
    }
    code.push_str("];\n");
    fs::write(out.join("assets.rs"), code).expect("OUT_DIR can be written");
}

/// The folder's files in a stable order; nothing when there is no such folder.
fn listed(dist: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dist) else { return Vec::new() };
    let mut files: Vec<_> =
        entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
