#!/usr/bin/env bash
# Fails on Rust debug output in log lines: a field `?value` or `name = ?value`, or `{:?}` or `{value:?}` in a message.
# Operators and machines read log lines: give a field its unit and a plain value (encoder/src/logging/mod.rs).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# $1: the folder to look at. Prints each offending call; fails if there is one.
check() {
    find "$1" -name '*.rs' -not -path '*/target/*' -not -path '*/node_modules/*' -print0 | sort -z | xargs -0 perl -0777 -e '
        my $calls = 0;
        my $bad = 0;
        while (<>) {
            my $text = $_;
            # Comments may hold unbalanced quotes. Their line breaks stay, for the line numbers.
            $text =~ s{^[ \t]*//.*$}{}mg;
            while ($text =~ m/\b(?:(?:trace|debug|info|warn|error)(?:_span)?|event|span)!\s*(\((?:[^()"]++|"(?:\\.|[^"\\])*+"|(?1))*+\))/gs) {
                my ($call, $line) = ($1, 1 + (substr($text, 0, $-[0]) =~ tr/\n//));
                $calls++;
                # A field `name = ?value` or `?value`, and a placeholder with the debug format.
                next unless $call =~ m/=\s*\?|[(,]\s*\?[\w(&]|\{[^{}]*\?\}/;
                $call =~ s/\s+/ /g;
                print "$ARGV:$line: debug output in a log line: $call\n";
                $bad = 1;
            }
        }
        die "log-fields: found no log line at all\n" unless $calls;
        exit $bad;
    '
}

# The check itself, on a line that must be found and on lines that must not be.
probe=$(mktemp -d)
trap 'rm -rf "$probe"' EXIT
for call in 'info!(?value, "a (b")' 'warn!(stage = ?next, "c")' 'error!("{value:?}")' 'debug!("{:?} {:#?}", 1, 2)' \
    'info_span!("d", ?e)' $'warn!(\n    a = 1,\n    b = ? c,\n    "e"\n)'; do
    printf '// "\n%s;\n' "$call" >"$probe/bad.rs"
    if check "$probe" >/dev/null; then
        echo "log-fields: the check has missed: $call"
        exit 1
    fi
done
printf 'info!(address = %%listener.local_addr()?, a = f(b), "why? {c} {d:.3}"); assert!(e, "{e:?}");\n' >"$probe/bad.rs"
check "$probe"
check .
