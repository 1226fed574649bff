//! Pages of the operator's, for services whose servers have all failed.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::rig::{Reply, Rig, mode};

const HTML: (&str, &str) = ("content-type", "text/html; charset=utf-8");
const LARGEST: usize = 1 << 20;

fn put(rig: &Rig, name: &str, text: &[u8]) -> Reply {
    rig.send("PUT", &format!("/api/v1/pages/{name}"), &[HTML], text)
}

fn names(rig: &Rig) -> Vec<String> {
    let all = rig.ask("GET", "/api/v1/pages").json();
    all.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn pages_are_written_listed_read_and_removed() {
    let rig = Rig::start();
    assert_eq!(rig.ask("GET", "/api/v1/pages").json(), json!([]));
    let added = put(&rig, "sorry.html", b"<p>sorry</p>");
    assert_eq!((added.status, added.json()["bytes"].clone()), (201, json!(12)));
    assert_eq!(put(&rig, "a-2_b.HTML", "<p>\u{fc}</p>".as_bytes()).status, 201);
    assert_eq!(put(&rig, "sorry.html", b"<p>very sorry</p>").status, 200);
    assert_eq!(names(&rig), ["a-2_b.HTML", "sorry.html"]);
    let read = rig.ask("GET", "/api/v1/pages/sorry.html");
    assert_eq!((read.status, read.text()), (200, "<p>very sorry</p>"));
    assert_eq!(read.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(read.header("content-security-policy").is_some_and(|it| it.starts_with("sandbox")));
    let file = rig.state().join("pages/sorry.html");
    assert_eq!((fs::read(&file).unwrap(), mode(&file)), (b"<p>very sorry</p>".to_vec(), 0o600));
    let left: Vec<_> = fs::read_dir(rig.state().join("pages")).unwrap().collect();
    assert_eq!(left.len(), 2, "nothing unfinished is left: {left:?}");
    let listed = rig.ask("GET", "/api/v1/pages").json();
    assert!(listed[1]["modified"].as_str().is_some_and(|it| it.ends_with('Z')), "{listed}");

    assert_eq!(rig.ask("DELETE", "/api/v1/pages/sorry.html").status, 204);
    rig.ask("DELETE", "/api/v1/pages/sorry.html").problem(404);
    rig.ask("GET", "/api/v1/pages/sorry.html").problem(404);
    assert_eq!(names(&rig), ["a-2_b.HTML"]);
}

#[test]
fn a_page_that_a_service_names_stays() {
    let rig = Rig::start();
    put(&rig, "sorry.html", b"sorry");
    let named = json!({ "fallback": { "page": "sorry.html" } });
    assert_eq!(rig.tell("PATCH", "/api/v1/services/web", &named).status, 200);
    let refused = rig.ask("DELETE", "/api/v1/pages/sorry.html");
    refused.problem(409);
    assert!(refused.text().contains("service web"), "{}", refused.text());
    assert_eq!(put(&rig, "sorry.html", b"still sorry").status, 200);
    let unnamed = json!({ "fallback": "page" });
    assert_eq!(rig.tell("PATCH", "/api/v1/services/web", &unnamed).status, 200);
    assert_eq!(rig.ask("DELETE", "/api/v1/pages/sorry.html").status, 204);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let rig = Rig::start();
    put(&rig, "sorry.html", b"sorry");
    fs::write(rig.directory.path().join("secret"), "secret").unwrap();
    let long = "a".repeat(64);
    for name in [
        "..%2Fadmin.token",
        "%2e%2e%2fadmin.token",
        "..%2f..%2fsecret",
        "%2Fetc%2Fpasswd",
        ".hidden",
        "..",
        "%2e%2e",
        "a%00b",
        "a%2Fb",
        "a%5Cb",
        "a%20b",
        "%C3%BC.html",
        "-rf",
        "",
        &long,
        ".sorry.html.new",
        "a%0d%0ab",
    ] {
        for method in ["GET", "DELETE"] {
            let refused = rig.ask(method, &format!("/api/v1/pages/{name}"));
            assert!([404, 405].contains(&refused.status), "{method} {name}: {}", refused.status);
        }
        let refused = put(&rig, name, b"mine");
        assert!([404, 405, 422].contains(&refused.status), "{name}: {}", refused.status);
    }
    assert_eq!(put(&rig, "%2e%2e%2fadmin.token", b"mine").problem(422).len(), 1);
    assert_eq!(rig.ask("GET", "/api/v1/pages/%ff").status, 400);
    assert_eq!(names(&rig), ["sorry.html"]);
    assert_ne!(rig.token(), "mine");
    let pages: Vec<_> = fs::read_dir(rig.state().join("pages")).unwrap().collect();
    assert_eq!(pages.len(), 1, "{pages:?}");
}

#[test]
fn bodies_that_are_no_pages_are_refused_and_change_nothing() {
    let rig = Rig::start();
    put(&rig, "sorry.html", b"sorry");
    let path = "/api/v1/pages/sorry.html";
    for kind in ["text/plain", "application/json", "", "text/htmlx"] {
        rig.send("PUT", path, &[("content-type", kind)], b"x").problem(415);
    }
    rig.send("PUT", path, &[], b"x").problem(415);
    put(&rig, "sorry.html", b"\xff\xfe").problem(400);
    put(&rig, "sorry.html", &vec![b'x'; LARGEST + 1]).problem(413);
    let read = || rig.ask("GET", path).body;
    assert_eq!(read(), b"sorry");
    assert_eq!(put(&rig, "sorry.html", &vec![b'x'; LARGEST]).status, 200);
    assert_eq!(read().len(), LARGEST);
    // Other things in the directory are no pages, and a page is replaced, not what it leads to.
    let pages = rig.state().join("pages");
    fs::create_dir(pages.join("folder")).unwrap();
    let elsewhere = rig.directory.path().join("elsewhere");
    fs::write(&elsewhere, "elsewhere").unwrap();
    symlink(&elsewhere, pages.join("link.html")).unwrap();
    assert_eq!(names(&rig), ["link.html", "sorry.html"]);
    rig.ask("GET", "/api/v1/pages/folder").problem(404);
    rig.ask("DELETE", "/api/v1/pages/folder").problem(404);
    assert_eq!(put(&rig, "link.html", b"mine").status, 200);
    assert_eq!(fs::read(&elsewhere).unwrap(), b"elsewhere");
    put(&rig, "folder", b"mine").problem(500);
    fs::write(pages.join("large.html"), vec![b'x'; LARGEST + 1]).unwrap();
    rig.ask("GET", "/api/v1/pages/large.html").problem(500);
}

#[test]
fn there_are_no_more_than_256_pages() {
    let rig = Rig::start();
    for number in 0..256 {
        assert_eq!(put(&rig, &format!("{number}.html"), b"<p></p>").status, 201);
    }
    let refused = put(&rig, "more.html", b"<p></p>");
    assert!(refused.text().contains("there are 256 pages already"), "{}", refused.text());
    refused.problem(409);
    assert_eq!(put(&rig, "7.html", b"<p>another</p>").status, 200);
    assert_eq!(rig.ask("DELETE", "/api/v1/pages/8.html").status, 204);
    assert_eq!(put(&rig, "more.html", b"<p></p>").status, 201);
}

#[test]
fn pages_are_in_the_description_of_the_api() {
    let rig = Rig::start();
    let described: Value = rig.ask("GET", "/api/openapi.json").json();
    let page = &described["paths"]["/api/v1/pages/{name}"];
    for method in ["get", "put", "delete"] {
        assert_eq!(page[method]["tags"], json!(["pages"]), "{method}");
    }
    assert!(page["put"]["requestBody"]["content"]["text/html"].is_object(), "{page}");
}
