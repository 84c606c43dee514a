//! What a view gets of an event, through the same engine as the worker's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

mod support;

use std::sync::Arc;

use serde_json::Value;
use support::engine::{Engine, engine, one_view, parse};
use veilstream::crypto::ciphertext::open_text;
use veilstream::crypto::ff1::Ff1;
use veilstream::crypto::{KeySource, Purpose};
use veilstream::keys::Keyset;
use veilstream::policy::Plan;
use veilstream::rewrite::{Disposition, Failure, RawRecord, Reason, Rewriter};

const SIMPLE: &str = "
policy: p
version: 1
source: { topic: t, format: json }
subject: id
fields:
  id: identifier
  name: name
  email: email
  'contacts[].phone': phone
  address.city: city
  plan: public
  'tags[]': public
  'labels.*': public
  '**.secret': secret
views:
  v:
    topic: out
    key: drop
    classes: { identifier: keep, name: redact, email: drop, phone: { truncate: 2 }, city: keep, public: keep, secret: 'null' }
";

fn view(policy: &str, event: &str) -> String {
    one_view(policy, event)
}

#[test]
fn untouched_values_come_out_byte_for_byte() {
    let event = r#"{"id":12345678901234567890.1234567890123456789,"plan":"a\u0041\/"}"#;
    assert_eq!(view(SIMPLE, event), event);
}

#[test]
fn what_the_policy_does_not_name_is_dropped_wherever_it_stands() {
    assert_eq!(
        view(SIMPLE, r#"{ "x":1, "id":1 , "y":{"id":2},"plan":"p","z":[1]}"#).replace(' ', ""),
        r#"{"id":1,"plan":"p"}"#
    );
    assert_eq!(view(SIMPLE, r#"{"x":1}"#), "{}");
    assert_eq!(
        view(SIMPLE, r#"{"address":{"street":"s","city":"c","zip":1}}"#),
        r#"{"address":{"city":"c"}}"#
    );
}

#[test]
fn a_scalar_where_an_object_was_expected_is_dropped() {
    assert_eq!(
        view(SIMPLE, r#"{"address":"12 Main St","contacts":"+1","plan":"p"}"#),
        r#"{"plan":"p"}"#
    );
    assert_eq!(
        view(SIMPLE, r#"{"contacts":{"phone":"+1"},"plan":"p"}"#),
        r#"{"contacts":{},"plan":"p"}"#
    );
    assert_eq!(
        view(SIMPLE, r#"{"contacts":["+1",{"phone":"+123"},3]}"#),
        r#"{"contacts":[{"phone":"+1"}]}"#
    );
}

#[test]
fn keep_does_not_pass_an_object_that_grew_where_a_scalar_was() {
    assert_eq!(view(SIMPLE, r#"{"plan":{"payer":"4111"}}"#), r#"{"plan":{}}"#);
    assert_eq!(
        view(SIMPLE, r#"{"plan":[1,[2]],"tags":["a","b"]}"#),
        r#"{"plan":[],"tags":["a","b"]}"#
    );
}

#[test]
fn an_object_where_text_was_expected_is_treated_whole_or_quarantined() {
    assert_eq!(view(SIMPLE, r#"{"name":{"first":"A"}}"#), r#"{"name":"[REDACTED]"}"#);
    let mut engine = engine(SIMPLE);
    let failure = engine.fail(r#"{"contacts":[{"phone":{"n":1}}]}"#);
    assert_eq!(
        (failure.reason, failure.path.as_deref()),
        (Reason::WrongType, Some("contacts[].phone"))
    );
}

#[test]
fn names_match_unescaped_and_duplicates_are_each_treated() {
    assert_eq!(
        view(SIMPLE, r#"{"n\u0061me":"A","name":"B"}"#),
        r#"{"n\u0061me":"[REDACTED]","name":"[REDACTED]"}"#
    );
    assert_eq!(view(SIMPLE, r#"{"e\u006dail":"a@b","plan":1}"#), r#"{"plan":1}"#);
}

#[test]
fn wildcards_match_any_name_and_any_depth() {
    assert_eq!(view(SIMPLE, r#"{"labels":{"a":1,"b":{"c":2}}}"#), r#"{"labels":{"a":1,"b":{}}}"#);
    let deep = r#"{"secret":1,"a":{"secret":2},"b":[[{"c":{"secret":3}}]]}"#;
    assert_eq!(
        untoken(&view(SIMPLE, deep)),
        r#"{"secret":null,"?":{"secret":null},"?":[[{"?":{"secret":null}}]]}"#
    );
}

#[test]
fn nulls_stay_null_and_dropped_nulls_go() {
    assert_eq!(
        view(SIMPLE, r#"{"id":null,"name":null,"email":null,"address":null,"x":null}"#),
        r#"{"id":null,"name":null,"address":null}"#
    );
}

#[test]
fn nulls_are_treated_where_the_view_says_so() {
    let policy = SIMPLE.replace("    key: drop", "    key: drop\n    nulls: treat");
    assert_eq!(view(&policy, r#"{"id":null,"name":null}"#), r#"{"id":null,"name":"[REDACTED]"}"#);
}

#[test]
fn white_space_and_order_do_not_confuse_the_commas() {
    for (event, out) in [
        ("{ \"email\" : 1 , \"id\" : 2 }", "{\"id\" : 2 }"),
        ("{ \"id\" : 2 , \"email\" : 1 }", "{ \"id\" : 2}"),
        ("{\"email\":1,\"id\":2,\"email\":1,\"plan\":3,\"email\":1}", "{\"id\":2,\"plan\":3}"),
        ("\n{}\t", "\n{}\t"),
        ("{\"contacts\":[ ]}", "{\"contacts\":[ ]}"),
    ] {
        assert_eq!(view(SIMPLE, event).trim(), out.trim(), "{event}");
    }
}

#[test]
fn what_is_no_object_is_refused_with_its_reason() {
    let mut engine = engine(SIMPLE);
    for (event, reason) in [
        ("[1]", Reason::NotAnObject),
        ("3", Reason::NotAnObject),
        ("", Reason::InvalidJson),
        ("{", Reason::InvalidJson),
        ("{}{}", Reason::InvalidJson),
        ("{\"id\":01}", Reason::InvalidJson),
    ] {
        assert_eq!(engine.fail(event).reason, reason, "{event}");
    }
    assert_eq!(engine.fail_bytes(b"{\"id\":\"\xff\"}").reason, Reason::InvalidUtf8);
    let deep = format!("{{\"secret\":{}1{}}}", "[".repeat(500), "]".repeat(500));
    assert_eq!(engine.fail(&deep).reason, Reason::TooDeep);
}

#[test]
fn a_strict_policy_quarantines_what_it_does_not_name_and_says_no_name() {
    let mut engine =
        engine(&SIMPLE.replace("fields:\n  id", "unclassified: quarantine\nfields:\n  id"));
    let failure = engine.fail(r#"{"address":{"ann@example.com":1}}"#);
    assert_eq!(failure.reason, Reason::Unclassified);
    let path = failure.path.unwrap();
    assert!(path.starts_with("address.<unclassified:"), "{path}");
    assert!(!path.contains("ann"), "{path}");
}

#[test]
fn a_catch_all_gives_way_to_more_specific_paths() {
    let policy = "
policy: p
version: 1
source: { topic: t, format: json }
fields: { '**': other, 'a.b': public, 'a.c.**': public, 'd': secret, 'd.e': public }
views: { v: { topic: out, key: drop, classes: { other: redact, public: keep, secret: redact } } }
";
    assert_eq!(
        untoken(&view(
            policy,
            r#"{"x":{"y":1},"a":{"b":1,"z":2,"c":{"k":[1,{"m":2}]}},"d":{"e":1,"f":2}}"#
        )),
        r#"{"?":"[REDACTED]","a":{"b":1,"?":"[REDACTED]","c":{"k":[1,{"m":2}]}},"d":{"e":1,"?":"[REDACTED]"}}"#
    );
}

#[test]
fn a_name_that_no_rule_says_is_a_token_unless_what_is_behind_it_is_kept() {
    let policy = "
policy: p
version: 1
source: { topic: t, format: json }
fields: { 'by_email.*': name, 'accounts.*.total': number, 'accounts.*.owner.name': name }
views:
  kept: { topic: o1, key: drop, classes: { name: keep, number: keep } }
  part: { topic: o2, key: drop, classes: { name: redact, number: keep } }
  other: { topic: o3, key: drop, classes: { name: redact, number: keep } }
";
    let mut engine = engine(policy);
    let event =
        r#"{"by_email":{"ann@x.org":"Ann","a\u006en@x.org":null},"accounts":{"DE89":{"total":1}}}"#;
    let out = engine.values(event);
    assert_eq!(out[0], event);
    assert_eq!(
        untoken(&out[1]),
        r#"{"by_email":{"?":"[REDACTED]","?":null},"accounts":{"?":{"total":1}}}"#
    );
    let names = |out: &str| -> Vec<String> {
        let value: serde_json::Value = serde_json::from_str(out).unwrap();
        value["by_email"].as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(names(&out[1]).len(), 1, "escaped or not, it is the same name");
    assert_ne!(names(&out[1]), names(&out[2]), "views do not join on names");
    assert_eq!(engine.values(event)[1], out[1]);
}

/// The output with a `?` for every name that is a token.
fn untoken(out: &str) -> String {
    let token = regex::Regex::new(r#""[A-Za-z0-9_-]{22}":"#).unwrap();
    token.replace_all(out, "\"?\":").into_owned()
}

#[test]
fn what_a_pattern_finds_and_a_view_drops_is_classified() {
    let policy = "
policy: p
version: 1
source: { topic: t, format: json }
unclassified: quarantine
fields: { id: identifier, '**.email': email }
views:
  one: { topic: o1, key: drop, classes: { identifier: keep, email: drop } }
  two: { topic: o2, key: drop, classes: { identifier: keep, email: keep } }
";
    let mut engine = engine(policy);
    let out = engine.values(r#"{"id":1,"profile":{"email":"x@y"}}"#);
    assert_eq!(out, [r#"{"id":1}"#, r#"{"id":1,"profile":{"email":"x@y"}}"#]);
    assert_eq!(engine.fail(r#"{"id":1,"profile":{"phone":1}}"#).reason, Reason::Unclassified);
}

#[test]
fn views_differ_and_exceptions_win() {
    let policy = "
policy: p
version: 1
source: { topic: t, format: json }
fields: { a: x, b: x, c: y }
views:
  one: { topic: o1, key: drop, classes: { x: keep, y: drop } }
  two: { topic: o2, key: drop, classes: { x: drop, y: redact }, fields: { b: keep } }
  three: { topic: o3, key: drop, default: 'null' }
";
    let mut engine = engine(policy);
    let out = engine.values(r#"{"a":1,"b":{"q":1},"c":3,"b":4}"#);
    assert_eq!(
        out,
        [
            r#"{"a":1,"b":{},"b":4}"#,
            r#"{"b":{},"c":"[REDACTED]","b":4}"#,
            r#"{"a":null,"b":null,"c":null,"b":null}"#
        ]
    );
}

#[test]
fn keys_carry_the_pseudonym_of_the_value() {
    let policy = "
policy: p
version: 1
source: { topic: t, format: json }
subject: id
fields: { id: identifier, region: public }
views:
  a: { topic: o1, classes: { identifier: tokenize, public: keep } }
  b: { topic: o2, key: tokenize, classes: { identifier: tokenize, public: keep } }
  c: { topic: o3, key: drop, classes: { identifier: redact, public: keep } }
";
    let mut engine = engine(policy);
    let out = engine.records(Some(br#"{"id":7,"region":"eu"}"#), Some(br#"{"id":7}"#));
    let key: serde_json::Value = serde_json::from_slice(out[0][0].0.as_ref().unwrap()).unwrap();
    let value: serde_json::Value = serde_json::from_slice(out[0][0].1.as_ref().unwrap()).unwrap();
    assert_eq!(key["id"], value["id"]);
    assert_eq!(key["region"], "eu");
    assert_eq!(out[1][0].0.as_ref().unwrap().len(), 43);
    assert_eq!(out[2][0].0, None);
}

#[test]
fn a_deterministic_ciphertext_joins_and_serves_in_a_key_and_opens() {
    let policy = "
policy: p
version: 1
source: { topic: t, format: json }
subject: id
fields: { id: identifier, email: email, other: email }
views:
  a:
    topic: o
    classes: { identifier: { encrypt: deterministic }, email: { encrypt: { mode: deterministic } } }
";
    let keys = Keyset::generate();
    let plan = Plan::compile(Arc::new(parse(policy)), &keys).unwrap();
    let mut rewriter = Rewriter::new(Arc::new(plan));
    let mut publish = |key: &str, value: &str| {
        let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
        let out = rewriter.rewrite(&RawRecord { key, value, ..RawRecord::default() }).unwrap();
        let record = out.records(0).next().unwrap();
        let read = |part: Option<&[u8]>| serde_json::from_slice::<Value>(part.unwrap()).unwrap();
        (read(record.key()), read(record.value()))
    };
    let (key, one) = publish(r#"{"id":7}"#, r#"{"id":7,"email":"a@b.c","other":"a@b.c"}"#);
    let (again, two) = publish(r#"{"id":7}"#, r#"{"id":7,"email":"a@b.c","other":"d@e.f"}"#);
    let (else_, three) = publish(r#"{"id":"7"}"#, r#"{"id":8,"email":"A@b.c"}"#);
    assert_eq!((&key, &key["id"]), (&again, &one["id"]));
    assert_ne!(key, else_);
    assert_eq!(one["email"], two["email"]);
    assert_ne!(one["email"], three["email"]);
    // Bound to its place.
    assert_ne!(one["email"], one["other"]);
    let data_key = keys.primary(Purpose::Deterministic).unwrap();
    let opened = |text: &Value, domain: &str, path: &str| {
        let opened = open_text(&data_key, domain, path, text.as_str().unwrap());
        opened.map(|text| String::from_utf8(text.expose().clone()).unwrap())
    };
    assert_eq!(opened(&key["id"], "p/a/identifier", "id").as_deref(), Ok("7"));
    assert_eq!(opened(&two["other"], "p/a/email", "other").as_deref(), Ok(r#""d@e.f""#));
    assert!(opened(&two["other"], "p/a/email", "email").is_err());
}

#[test]
fn format_preserving_encryption_keeps_alphabet_length_and_separators() {
    let policy = "
policy: p
version: 1
source: { topic: t, format: json }
subject: id
fields: { id: identifier, card: card, code: code }
views:
  a:
    topic: o
    classes:
      identifier: { encrypt: { mode: fpe } }
      card: { encrypt: { mode: fpe } }
      code: { encrypt: { mode: fpe, alphabet: 'äöüßABCDEFG', separators: '/' } }
";
    let keys = Keyset::generate();
    let plan = Plan::compile(Arc::new(parse(policy)), &keys).unwrap();
    let mut rewriter = Rewriter::new(Arc::new(plan));
    let mut publish = |key: &str, value: &str| {
        let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
        let out = rewriter.rewrite(&RawRecord { key, value, ..RawRecord::default() })?;
        let record = out.records(0).next().unwrap();
        let read = |part: Option<&[u8]>| serde_json::from_slice::<Value>(part.unwrap()).unwrap();
        Ok::<_, Failure>((read(record.key()), read(record.value())))
    };
    let event = r#"{"id":1000000,"card":"4111 1111-1111 1111","code":"ßABC/äöüA"}"#;
    let (key, value) = publish(r#"{"id":1000000}"#, event).unwrap();
    assert_eq!(key["id"], value["id"]);
    let text = |name: &str| value[name].as_str().unwrap().to_owned();
    assert_eq!(text("id").len(), 7);
    let card = text("card");
    let places: Vec<_> = card.char_indices().filter(|(_, c)| !c.is_ascii_digit()).collect();
    assert_eq!(places, [(4, ' '), (9, '-'), (14, ' ')]);
    assert_ne!(card, "4111 1111-1111 1111");
    let code: Vec<char> = text("code").chars().collect();
    assert_eq!((code.len(), code[4]), (9, '/'));
    assert!(code.iter().all(|c| "äöüßABCDEFG/".contains(*c)));
    assert_eq!(publish(r#"{"id":1000000}"#, event).unwrap().1, value);

    // It comes back by the key, the domain and the path.
    let data_key = keys.primary(Purpose::Deterministic).unwrap();
    let digits: Vec<u16> = card.chars().filter_map(|c| c.to_digit(10)).map(|d| d as u16).collect();
    let back = |path: &str| {
        let cipher = Ff1::at(&data_key, 10, "p/a/card", path).unwrap();
        cipher.decrypt(digits.clone()).unwrap()
    };
    let plain = [[4, 1, 1, 1], [1; 4], [1; 4], [1; 4]].concat();
    assert_eq!(back("card"), plain);
    assert_ne!(back("id"), plain);

    for (event, reason) in [
        (r#"{"card":"4111.1111"}"#, Reason::NotInAlphabet),
        (r#"{"card":"４１１１１１１"}"#, Reason::NotInAlphabet),
        (r#"{"card":-1000000.5}"#, Reason::NotInAlphabet),
        (r#"{"card":"12345"}"#, Reason::OutOfDomain),
        (r#"{"card":""}"#, Reason::OutOfDomain),
        (r#"{"card":"- -"}"#, Reason::OutOfDomain),
        (r#"{"card":true}"#, Reason::WrongType),
        (r#"{"card":["4111111"]}"#, Reason::WrongType),
        (&format!(r#"{{"card":"{}"}}"#, "1".repeat(513)), Reason::OutOfDomain),
    ] {
        assert_eq!(publish("{}", event).unwrap_err().reason, reason, "{event}");
    }
    assert!(publish("{}", r#"{"card":null}"#).is_ok());
}

#[test]
fn a_key_that_could_merge_two_subjects_or_leak_is_refused() {
    let policy = "
policy: p
version: 1
source: { topic: t, format: json }
fields: { id: identifier, email: email }
views: { a: { topic: o1, classes: { identifier: tokenize, email: encrypt } } }
";
    let mut engine = engine(policy);
    for (key, reason) in [
        (&br#"{"email":"a@b.c"}"#[..], Reason::KeyField),
        (br#"{"id":1,"tenant":2}"#, Reason::KeyField),
        (br#""ann@example.com""#, Reason::KeyShape),
        (b"ann", Reason::KeyShape),
        (b"\xff", Reason::KeyShape),
        (br#"{"id":1"#, Reason::InvalidJson),
    ] {
        assert_eq!(engine.fail_record(Some(key), Some(b"{}")).reason, reason);
    }
}

#[test]
fn a_tombstone_passes_as_a_tombstone() {
    let policy = SIMPLE.replace("key: drop", "key: fields");
    let out = engine(&policy).records(Some(br#"{"id":1}"#), None);
    assert_eq!(out, [[(Some(br#"{"id":1}"#.to_vec()), None)]]);
}

#[test]
fn a_row_that_no_longer_matches_leaves_the_view() {
    let policy = SIMPLE.replace("key: drop", "where: row.plan == 'a'");
    let mut engine = engine(&policy);
    let key = Some(&br#"{"id":1}"#[..]);
    assert_eq!(engine.dispositions(key, Some(br#"{"plan":"a"}"#)), [Disposition::Publish]);
    assert_eq!(engine.dispositions(key, Some(br#"{"plan":"b"}"#)), [Disposition::Tombstone]);
    assert_eq!(engine.dispositions(key, Some(br#"{}"#)), [Disposition::Tombstone]);
    assert_eq!(
        engine.dispositions(key, Some(br#"{"plan":"b","plan":"a"}"#)),
        [Disposition::Tombstone],
        "a field that stands twice could be read either way"
    );
    assert!(matches!(
        engine.dispositions(None, Some(br#"{"plan":"b"}"#))[..],
        [Disposition::Filtered(_)]
    ));
}

#[test]
fn headers_are_dropped_but_for_those_named() {
    let policy = SIMPLE.replace("key: drop", "key: drop\n    headers: [traceparent]");
    let headers = engine(&policy).headers(
        br#"{"id":1}"#,
        &[
            ("traceparent", Some(&b"00-1"[..])),
            ("user", Some(b"ann")),
            ("veilstream-policy", Some(b"forged")),
        ],
    );
    assert_eq!(headers.len(), 2);
    assert!(headers[0].0 == "veilstream-policy" && headers[0].1.starts_with("p@1#"));
    assert_eq!(headers[1], ("traceparent".into(), "00-1".into()));
}

#[test]
fn what_is_encrypted_to_a_recipient_opens_with_the_private_key_alone() {
    let policy = "
policy: p
version: 1
source: { topic: t, format: json }
recipients: { partner: j0DFrbaPJWJK5bIU6nZ6bslNgp09e14a0bpvPiE4KF8= }
fields: { email: email, id: identifier }
views:
  v: { topic: o, key: drop, classes: { identifier: keep, email: { encrypt: { recipient: partner } } } }
";
    let mut engine = engine(policy);
    let event = r#"{"id":1,"email":"ann@example.com"}"#;
    let mut sealed = || {
        let out: Value = serde_json::from_str(&engine.values(event)[0]).unwrap();
        assert_eq!(out["id"], 1);
        out["email"].as_str().unwrap().to_owned()
    };
    let (one, two) = (sealed(), sealed());
    assert_ne!(one, two);
    let label = veilstream::crypto::ciphertext::label(
        &base64_simd::URL_SAFE_NO_PAD.decode_to_vec(&one).unwrap(),
    );
    let private = std::array::from_fn(|at| at as u8);
    let key = veilstream::crypto::DataKey {
        id: label.unwrap().key,
        version: 0,
        secret: veilstream::crypto::Secret::new(private),
    };
    for sealed in [one, two] {
        let opened = open_text(&key, "p/v/email", "email", &sealed).unwrap();
        assert_eq!(opened.expose(), br#""ann@example.com""#);
    }
}

#[test]
fn a_pinned_view_keeps_its_pseudonyms_beside_those_of_the_new_key() {
    const VIEWS: &str = "
policy: p
version: 1
source: { topic: raw, format: json }
subject: id
fields: { id: identifier, email: email }
views:
  old: { topic: old, domain: d, PIN classes: { identifier: tokenize, email: { encrypt: deterministic } } }
  new: { topic: new, domain: d, classes: { identifier: tokenize, email: { encrypt: deterministic } } }
";
    let policy = |pin: &str| VIEWS.replace("PIN", pin);
    let event = r#"{"id":7,"email":"a@b"}"#;
    let record = |keys: &Keyset, pin: &str| {
        let plan = Plan::compile(Arc::new(parse(&policy(pin))), keys).unwrap();
        let mut engine = Engine { keys: keys.clone(), rewriter: Rewriter::new(Arc::new(plan)) };
        let [old, new] = engine.records(Some(br#"{"id":7}"#), Some(event.as_bytes()))[..]
            .to_vec()
            .try_into()
            .unwrap();
        (old, new)
    };
    let mut keys = Keyset::generate();
    let (first, second) = record(&keys, "");
    assert_eq!(first, second, "one domain, one key");
    keys.rotate(Purpose::Token).unwrap();
    keys.rotate(Purpose::Deterministic).unwrap();
    let pin = "pin: { token: 1, deterministic: 1, until: 2027-01-31 },";
    let (old, new) = record(&keys, pin);
    assert_eq!(old, first, "record key and value");
    assert_ne!(new[0].0, first[0].0);
    // One of the two.
    let half = record(&keys, "pin: { token: 1, until: 2027-01-31 },").0;
    assert_eq!(half[0].0, first[0].0);
    assert_ne!(half[0].1, first[0].1);
    // Another version is told.
    let missing = parse(&policy("pin: { token: 9, until: 2027-01-31 },"));
    let error = Plan::compile(Arc::new(missing), &keys).err().unwrap().to_string();
    assert!(error.contains("version 9"), "{error}");
    assert!(
        Plan::compile(Arc::new(parse(&policy(pin)).without_pins()), &Keyset::generate()).is_ok()
    );
}
