//! Who is told, and what is done.

use serde_json::json;

use super::*;

#[test]
fn in_band_there_are_no_names_of_hosts() {
    let mut document = full();
    document["alerts"]["via"] = json!("in_band");
    assert_eq!(refused(&document), ["alerts.mail.server", "trigger[0].do[3].url"]);
    document["alerts"]["mail"]["server"] = json!("[2001:db8::25]:25");
    document["trigger"][0]["do"][3]["url"] = json!("http://10.0.0.30/");
    let config = Config::read(&document).unwrap();
    assert_eq!(config.document().alerts.mail.unwrap().server, "[2001:db8::25]:25");
}

#[test]
fn who_is_told_of_a_service_needs_somebody_who_tells() {
    let mut document = full();
    document["alerts"].as_object_mut().unwrap().remove("mail");
    assert_eq!(refused(&document), ["service[0].alerts"]);
}

#[test]
fn receivers_and_triggers_stand_once() {
    let mut document = full();
    let again = document["alerts"]["webhook"][0].clone();
    document["alerts"]["webhook"].as_array_mut().unwrap().push(again);
    let again = document["trigger"][0].clone();
    document["trigger"].as_array_mut().unwrap().push(again);
    assert_eq!(refused(&document), ["alerts.webhook[1].url", "trigger[1].name"]);
}

#[test]
fn secrets_are_shown_neither_in_refusals_nor_in_logs() {
    let config = Config::read(&full()).unwrap();
    let shown = format!("{config:?}");
    assert!(shown.contains("(a secret)"));
    for secret in ["not for logs", "node=lb1"] {
        assert!(!shown.contains(secret), "{secret}");
    }
    for path in ["alerts.mail.password", "alerts.webhook[0].secret", "trigger[0].do[2].secret"] {
        let long = format!("not for logs{}", "x".repeat(2000));
        assert!(!refusal(&with(path, json!(long))).contains("not for"), "{path}");
    }
    let url = json!("https://10.0.0.30/a secret");
    assert!(!refusal(&with("alerts.webhook[0].url", url)).contains("secret"));
    // Whoever may change the configuration gets back what he wrote.
    let text = serde_json::to_string(&config.document()).unwrap();
    assert_eq!(text.matches("not for logs").count(), 3);
}
