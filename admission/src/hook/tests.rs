use super::*;
use crate::grant::TermsError;
use serde_json::Value;

pub(crate) fn question(key: &str, query: &str) -> Question {
    Question {
        app: "live".into(),
        key: key.into(),
        query: query.into(),
        app_query: String::new(),
        peer: "[::ffff:192.0.2.7]:5000".parse().unwrap(),
        client: "FMLE/3.0 (compatible)".into(),
        tc_url: "rtmp://example.org/live".into(),
        swf_url: String::new(),
        page_url: "https://example.org/?a=b&c".into(),
        publish_type: "live".into(),
        server: "encoder-7".into(),
        id: "id-1".into(),
        number: 3,
    }
}

fn answered(question: &Question, status: u16, content_type: &str, body: &str) -> Answer {
    let (content_type, body) = (Some(content_type), Some(body.as_bytes()));
    read(question, Response { status, content_type, location: None, body })
}

fn read(question: &Question, response: Response<'_>) -> Answer {
    Answer::read(question, response, |terms| match terms.latency {
        Some(latency) if latency < 2.0 => Err("latency: too short".into()),
        _ => Ok(()),
    })
}

fn name(answer: Answer) -> String {
    match answer {
        Answer::Yes(grant) => {
            assert!(grant.proven && grant.app == "live");
            grant.name
        }
        other => panic!("no yes: {other:?}"),
    }
}

#[test]
fn json_has_mediamtx_s_names_and_some_more() {
    let mut question = question("a/b\"c", "user=u%20v&pass=p+q&latency=5");
    question.app_query = "token=t&user=later".into();
    let body: Value = serde_json::from_slice(&question.json()).unwrap();
    let expected = serde_json::json!({
        "user": "u v", "password": "p q", "token": "t", "ip": "192.0.2.7", "port": 5000, "action": "publish",
        "path": "live/a/b\"c", "protocol": "rtmp", "id": "id-1",
        "query": "user=u%20v&pass=p+q&latency=5&token=t&user=later", "userAgent": "FMLE/3.0 (compatible)",
        "client": "FMLE/3.0 (compatible)", "app": "live", "key": "a/b\"c", "server": "encoder-7",
    });
    assert_eq!(body, expected);
}

#[test]
fn the_form_is_nginx_s_and_arguments_follow_as_they_are() {
    let mut question = question("a/b&c", "token=x%2By+z&latency=5&flag");
    question.app_query = "region=eu".into();
    let body = String::from_utf8(question.form()).unwrap();
    assert_eq!(
        body,
        "app=live&flashver=FMLE%2F3.0%20%28compatible%29&swfurl=&tcurl=rtmp%3A%2F%2Fexample.org%2Flive\
         &pageurl=https%3A%2F%2Fexample.org%2F%3Fa%3Db%26c&addr=192.0.2.7&clientid=3&call=publish&name=a%2Fb%26c\
         &type=live&token=x%2By+z&latency=5&flag&region=eu"
    );
}

#[test]
fn no_argument_can_be_taken_for_a_field_of_the_form() {
    let plain = String::from_utf8(question("key", "").form()).unwrap();
    for argument in [
        "name=victim",
        "NAME=x",
        "n%61me=x",
        "+name=x",
        "%20name=x",
        "name[]=x",
        "name%00=x",
        "na.me=x",
        "call=x",
        "=x",
        "a=b c",
        "a=\r\nb",
        "a=é",
    ] {
        let body = String::from_utf8(question("key", argument).form()).unwrap();
        assert_eq!(body, plain, "{argument}");
    }
}

#[test]
fn a_question_is_known_again_by_application_key_and_arguments() {
    let digest = question("key", "a=b").digest();
    assert_eq!(Question { id: "other".into(), number: 9, ..question("key", "a=b") }.digest(), digest);
    for other in [question("key", "a=c"), question("keya", "=b"), question("key", "")] {
        assert_ne!(other.digest(), digest);
    }
    let moved = Question { app_query: "a=b".into(), ..question("key", "") };
    assert_ne!(moved.digest(), digest);
}

#[test]
fn yes_is_said_with_a_status_a_name_and_terms() {
    let plain = question("camera", "");
    for (status, content_type, body) in [
        (200, "", ""),
        (204, "application/json", " \n"),
        (201, "text/plain", "OK"),
        (200, "text/html", "<p>"),
        (200, "application/json", "{}"),
        (200, "application/json; charset=utf-8", r#"{"name":null,"unknown":1}"#),
    ] {
        assert_eq!(name(answered(&plain, status, content_type, body)), "camera", "{content_type} {body}");
    }
    assert_eq!(name(answered(&question("c%61mera", ""), 200, "", "")), "camera");
    let body = r#"{"name":"public","latency":4,"max_pixels":100,"metadata":{"id":7}}"#;
    let Answer::Yes(grant) = answered(&question("se/cret", ""), 200, "application/problem+JSON", body) else {
        panic!("a yes");
    };
    assert_eq!((&*grant.name, grant.terms.latency, grant.terms.max_pixels), ("public", Some(4.0), Some(100)));
    let renamed = Response { status: 302, content_type: None, location: Some("public"), body: None };
    assert_eq!(name(read(&question("se/cret", ""), renamed)), "public");
}

#[test]
fn garbage_is_neither_yes_nor_no() {
    let secret = question("se/cret", "");
    let terms = |error| BadAnswer::Terms(error);
    for (content_type, body, expected) in [
        ("", "", BadAnswer::NoName),
        ("text/plain", "public", BadAnswer::NoName),
        ("application/json", "{", BadAnswer::NotJson),
        ("application/json", "[]", BadAnswer::NotJson),
        ("application/json", "true", BadAnswer::NotJson),
        ("application/json", r#"{"name":"a/b"}"#, BadAnswer::Name),
        ("application/json", r#"{"name":7}"#, BadAnswer::Name),
        ("application/json", r#"{"name":"a","latency":"x"}"#, terms(TermsError::Type("latency".into()))),
        (
            "application/json",
            r#"{"name":"a","latency":1}"#,
            terms(TermsError::Unusable("latency: too short".into())),
        ),
    ] {
        assert_eq!(answered(&secret, 200, content_type, body), Answer::Garbage(expected), "{body}");
    }
    let long = Response { status: 200, content_type: None, location: None, body: None };
    assert_eq!(read(&question("camera", ""), long), Answer::Garbage(BadAnswer::TooLong));
    for location in ["https://example.org/camera", "/camera", "", "a b"] {
        let response =
            Response { status: 307, content_type: None, location: Some(location), body: Some(b"") };
        assert_eq!(read(&secret, response), Answer::Garbage(BadAnswer::Location), "{location}");
    }
}

#[test]
fn a_no_may_have_words_but_never_the_key() {
    let secret = question("s3cr%65t", "token=hush%20hush&latency=5");
    for (status, content_type, body, expected) in [
        (403, "", "no", None),
        (404, "text/html", "<p>", None),
        (304, "", "", None),
        (401, "text/plain", "", None),
        (403, "text/plain; charset=utf-8", "paid\tup\r\nto May\u{202e}\u{7}", Some("paid up  to May")),
        (403, "Text/Plain", "s3cr%65t is s3cret: hush hush, hush%20hush, 5", Some("… is …: …, …, 5")),
        (403, "text/plain", "s3c\u{200b}ret", Some("…")),
        (403, "application/json", r#"{"message":"m","reason":"s3cret \u0073"}"#, Some("… s")),
        (403, "application/json", r#"{"error":"e","reason":7}"#, Some("e")),
        (403, "application/json", "{", None),
        (100, "text/plain", "odd", Some("odd")),
    ] {
        let expected = Answer::No(expected.map(str::to_owned));
        assert_eq!(answered(&secret, status, content_type, body), expected, "{body}");
    }
    let Answer::No(Some(words)) = answered(&secret, 403, "text/plain", &"é".repeat(1000)) else {
        panic!("words")
    };
    assert_eq!(words.chars().count(), 256);
    let long = Response { status: 403, content_type: Some("text/plain"), location: None, body: None };
    assert_eq!(read(&secret, long), Answer::No(None));
    for status in [408, 429, 500, 503, 599] {
        assert_eq!(answered(&secret, status, "text/plain", "x"), Answer::Down(status));
    }
    assert!(!format!("{secret:?}").contains("s3cr"));
    assert_eq!(name(answered(&question("c", ""), 200, "", "")), "c", "and keys may be short");
}
