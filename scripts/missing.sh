# Sourced by checks that need a tool which `make setup-test` does not install. A check that is left out looks like one
# that passes; so it fails, unless SKIP_CHECKS names the tool: SKIP_CHECKS=kubectl,nightly make test. Continuous
# integration leaves nothing out (.ci/run).

# missing TOOL WHAT: TOOL is not there, so WHAT cannot be done. Returns if that is allowed, else ends the script.
missing() {
    case ",${SKIP_CHECKS:-}," in
    *",$1,"*)
        echo "left out, because SKIP_CHECKS names $1: $2"
        ;;
    *)
        echo "$1 is not installed: $2. SKIP_CHECKS=$1 leaves this out" >&2
        exit 1
        ;;
    esac
}
