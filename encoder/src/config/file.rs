//! The configuration file: TOML with the names of `serve`'s flags. Its values become the defaults of the command line
//! ([`crate::config::cli`]), so flags and environment variables override them, and every value is validated in the same
//! place, regardless of its source.

use super::BadSetting;
use std::io::Read;
use std::path::Path;
use toml::{Table, Value};

/// Largest file that is read; real files are a few hundred bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The key for all applications that are not named in a table of latencies. It is not a valid application name.
const ALL_OTHERS: &str = "*";

/// The values in a file, as they would be typed on the command line, and the mistakes in the file.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct FromFile {
    /// Names of flags, without leading dashes, and their values.
    pub values: Vec<(String, String)>,
    /// All mistakes in the file.
    pub bad: Vec<BadSetting>,
}

/// Reads a file. `is_flag` returns whether a flag of that name exists.
pub(crate) fn read(file: &Path, is_flag: impl Fn(&str) -> bool) -> FromFile {
    let mut text = String::new();
    let opened = std::fs::File::open(file);
    match opened.and_then(|open| open.take(MAX_FILE_BYTES).read_to_string(&mut text)) {
        Ok(_) => parse(&text, is_flag),
        Err(error) => {
            let mut from_file = FromFile::default();
            from_file.reject(&file.display().to_string(), format!("cannot be read: {error}"));
            from_file
        }
    }
}

fn parse(text: &str, is_flag: impl Fn(&str) -> bool) -> FromFile {
    let mut from_file = FromFile::default();
    let table = match text.parse::<Table>() {
        Ok(table) => table,
        Err(error) => {
            from_file.reject("TOML", error.to_string().trim_end().to_owned());
            return from_file;
        }
    };
    for (name, value) in table {
        if !is_flag(&name) {
            from_file.reject(&name, "is no setting; names are those of the flags, as in http-listen".into());
            continue;
        }
        match typed(&name, &value) {
            Ok(text) => from_file.values.push((name, text)),
            Err(problem) => from_file.reject(&name, problem),
        }
    }
    from_file
}

/// Converts a value to the text that would be typed on the command line.
fn typed(name: &str, value: &Value) -> Result<String, String> {
    let scalar = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(yes) => Some(yes.to_string()),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    };
    match value {
        Value::Array(values) => {
            let values: Option<Vec<_>> = values.iter().map(scalar).collect();
            values.map(|values| values.join(",")).ok_or("must be a list of single values".into())
        }
        Value::Table(values) if name == "latency" => {
            let items = values.iter().map(|(app, value)| match (app.as_str(), scalar(value)) {
                (ALL_OTHERS, Some(value)) => Some(value),
                (app, Some(value)) => Some(format!("{app}={value}")),
                (_, None) => None,
            });
            let items: Option<Vec<_>> = items.collect();
            items.map(|items| items.join(",")).ok_or("must be seconds by application".into())
        }
        single => scalar(single).ok_or("must be a single value".into()),
    }
}

// === impl FromFile ===

impl FromFile {
    fn reject(&mut self, value: &str, problem: String) {
        self.bad.push(BadSetting { flag: "--config", value: value.to_owned(), problem });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> FromFile {
        parse(text, |name| matches!(name, "latency" | "ladder" | "capacity" | "http-listen"))
    }

    #[test]
    fn values_are_what_would_be_typed() {
        for (text, name, typed) in [
            ("capacity = 2", "capacity", "2"),
            ("capacity = '2'", "capacity", "2"),
            ("latency = 2.5", "latency", "2.5"),
            ("latency = 4.0", "latency", "4"),
            ("latency = { '*' = 4, concert = 10, live = 2.5 }", "latency", "4,concert=10,live=2.5"),
            ("[latency]\nlive = 3", "latency", "live=3"),
            ("ladder = ['source', '480p@1400k']", "ladder", "source,480p@1400k"),
            ("http-listen = '[::]:80'", "http-listen", "[::]:80"),
        ] {
            let FromFile { values, bad } = parsed(text);
            assert_eq!((values, bad), (vec![(name.into(), typed.into())], vec![]), "{text}");
        }
        assert_eq!(parsed("# nothing\n"), FromFile::default());
    }

    #[test]
    fn all_mistakes_are_told() {
        let text = "capacity = 2\nhttp_listen = 'x'\nladder = [[1]]\n[latency]\nlive = [3]\n[http-listen]\nport = 80\n";
        let FromFile { values, bad } = parsed(text);
        assert_eq!(values, [("capacity".to_owned(), "2".to_owned())]);
        let mut names: Vec<_> = bad.iter().map(|bad| bad.value.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["http-listen", "http_listen", "ladder", "latency"]);
        let broken = parsed("capacity = ");
        assert!(broken.bad[0].to_string().contains("line 1"), "{}", broken.bad[0]);
        let gone = read(Path::new("/none.toml"), |_| true);
        assert!(
            gone.bad[0].to_string().starts_with("--config /none.toml: cannot be read"),
            "{}",
            gone.bad[0]
        );
    }
}
