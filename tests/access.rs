//! Who may see what is sealed: `veilstream reveal` and `POST /v1/reveal`, on a real broker, with tokens of an OpenID
//! provider.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails where it should"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64_simd::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use support::broker::{Broker, wait_until};
use support::providers::python;
use support::scene::{Scene, stdout, user, wait_consumed};
use support::worker::{BINARY, WorkerProcess};
use veilstream::access::{TokenError, Verifier};
use veilstream::config::{TokenAlgorithm, Tokens};

const POLICY: &str = "
policy: crm
version: 1
source: { topic: PREFIX.raw, format: json }
subject: id
fields: { id: identifier, email: email, \"phones[].number\": phone, card: card, plan: public }
views:
  fraud:
    topic: PREFIX.fraud
    key: drop
    classes: { identifier: keep, email: encrypt, phone: { encrypt: deterministic }, card: { encrypt: { mode: fpe } }, public: keep }
  support:
    topic: PREFIX.support
    key: drop
    classes: { identifier: keep, email: encrypt, phone: redact, card: redact, public: keep }
  joined:
    topic: PREFIX.joined
    key: drop
    classes: { identifier: keep, email: { encrypt: { domain: one } }, phone: { encrypt: { domain: one } }, card: drop, public: keep }
";

const ROLES: &str = "
purposes: [case, ticket]
roles:
  lead:
    views: [crm/fraud, crm/support]
    reveal:
      - { classes: [email, phone], purposes: [case, ticket] }
      - { classes: [card], purposes: [case], approval: true }
  desk:
    parent: lead
    views: [crm/support]
    reveal: [{ classes: [email], purposes: [ticket] }]
  idle: { views: [crm/fraud] }
  mail: { views: [crm/joined], reveal: [{ classes: [email], purposes: [case] }] }
";

const EVENT: &str = r#"{"id":7,"email":"canary@example.com","phones":[{"number":"1"},{"number":"+44 canary"}],"card":"4111 1111 1111 1111","plan":"gold"}"#;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode_to_string(bytes)
}

/// An OpenID provider's signing key.
enum Key {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    fn p256() -> Key {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let made = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Key::P256(EcdsaKeyPair::from_pkcs8(algorithm, made.as_ref(), &random).unwrap())
    }

    fn ed25519() -> Key {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Key::Ed25519(Ed25519KeyPair::from_pkcs8(made.as_ref()).unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Key::P256(_) => "ES256",
            Key::Ed25519(_) => "EdDSA",
        }
    }

    fn jwk(&self, kid: &str) -> Value {
        match self {
            Key::P256(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "alg": "ES256",
                    "x": encode(&point[1..33]), "y": encode(&point[33..])})
            }
            Key::Ed25519(pair) => json!({"kty": "OKP", "crv": "Ed25519", "kid": kid,
                "x": encode(pair.public_key())}),
        }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let text = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = match self {
            Key::P256(pair) => {
                pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap().as_ref().to_vec()
            }
            Key::Ed25519(pair) => pair.sign(text.as_bytes()).as_ref().to_vec(),
        };
        format!("{text}.{}", encode(signature))
    }

    fn token(&self, kid: &str, claims: &Value) -> String {
        self.sign(&json!({"alg": self.algorithm(), "typ": "JWT", "kid": kid}), claims)
    }
}

fn claims(actor: &str, roles: &[&str]) -> Value {
    json!({"iss": "https://id.example", "aud": "veilstream", "sub": actor, "roles": roles, "exp": now() + 300})
}

struct Place {
    scene: Scene,
    key: Key,
    worker: WorkerProcess,
    /// What stands in the views, by POLICY/VIEW and path.
    sealed: BTreeMap<(&'static str, &'static str), String>,
}

impl Place {
    /// A worker that has published one event, and tokens of a provider whose keys stand in a file.
    fn new(name: &str, extra: &str) -> Place {
        let topics = [("raw", 1), ("fraud", 1), ("support", 1), ("joined", 1)];
        let mut scene = Scene::new(Broker::shared("access"), name, POLICY, &topics);
        let key = Key::p256();
        fs::write(scene.site.path("jwks.json"), json!({"keys": [key.jwk("k1")]}).to_string())
            .unwrap();
        let users = format!("users: {{ {}: lead, daemon: lead }}\n", user());
        fs::write(scene.site.path("roles.yaml"), format!("{ROLES}{users}")).unwrap();
        scene.site.extra = format!(
            "access:\n  roles: roles.yaml\n  tokens: {{ issuer: 'https://id.example', audience: veilstream, \
             keys: jwks.json, algorithm: ES256 }}\n{extra}"
        );
        scene.produce("raw", &[(Some("7"), EVENT)]);
        let worker = scene.site.start("one");
        wait_consumed(&worker, 1);
        let mut sealed = BTreeMap::new();
        let [fraud, support, joined] =
            ["fraud", "support", "joined"].map(|view| scene.values(view).remove(0));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        sealed.insert(("crm/fraud", "email"), text(&fraud["email"]));
        sealed.insert(("crm/fraud", "phones[].number"), text(&fraud["phones"][1]["number"]));
        sealed.insert(("crm/fraud", "card"), text(&fraud["card"]));
        sealed.insert(("crm/support", "email"), text(&support["email"]));
        sealed.insert(("crm/joined", "email"), text(&joined["email"]));
        sealed.insert(("crm/joined", "phones[].number"), text(&joined["phones"][1]["number"]));
        Place { scene, key, worker, sealed }
    }

    fn asked(&self, view: &'static str, path: &'static str) -> Value {
        json!({"view": view, "path": path, "value": self.sealed[&(view, path)]})
    }

    fn post(&self, page: &str, token: Option<&str>, body: &str) -> (u16, Value) {
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        let address = format!("http://{}{page}", self.worker.address);
        let mut request = ureq::Agent::new_with_config(config).post(address);
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let mut answer = request.send(body).unwrap();
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let text = answer.body_mut().read_to_string().unwrap();
        (answer.status().as_u16(), serde_json::from_str(&text).unwrap())
    }

    fn token(&self, actor: &str, roles: &[&str]) -> String {
        self.key.token("k1", &claims(actor, roles))
    }

    fn reveal(&self, actor: &str, roles: &[&str], body: &Value) -> (u16, Value) {
        self.post("/v1/reveal", Some(&self.token(actor, roles)), &body.to_string())
    }

    fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(arguments).arg("--config").arg(self.scene.site.path("one.yaml"));
        command.output().unwrap()
    }

    /// The newest `access` event.
    fn access(&self) -> Value {
        self.scene.audit("access").pop().expect("an access event")
    }
}

fn outcomes(answer: &Value) -> Vec<&str> {
    answer["values"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["outcome"].as_str().unwrap())
        .collect()
}

#[test]
fn who_may_see_a_value_sees_it_and_nobody_else_does_and_the_trail_has_both() {
    let place = Place::new("reveal", "");
    let both = json!({"purpose": "ticket", "values": [
        place.asked("crm/support", "email"), place.asked("crm/fraud", "phones[].number"),
        {"view": "crm/fraud", "path": "phones[1].number", "value": place.sealed[&("crm/fraud", "phones[].number")]},
    ]});
    let (status, answer) = place.reveal("ann", &["lead"], &both);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        answer,
        json!({"values": [
            {"outcome": "revealed", "value": "canary@example.com"},
            {"outcome": "revealed", "value": "+44 canary"},
            {"outcome": "revealed", "value": "+44 canary"},
        ]})
    );
    let event = place.access();
    assert_eq!(event["actor"], "ann");
    assert_eq!(
        (&event["by"], &event["what"], &event["purpose"]),
        (&json!("token"), &json!("reveal"), &json!("ticket"))
    );
    assert_eq!((&event["roles"], &event["allowed"]), (&json!(["lead"]), &json!(true)));
    assert_eq!(event["values"][1]["path"], "phones[].number");
    assert_eq!(event["values"][1]["class"], "phone");
    assert_eq!(event["values"][0]["key"].as_str().unwrap().len(), 32);

    // The same to one who may see only one of them.
    let (status, answer) = place.reveal("bob", &["desk", "nobody"], &both);
    assert_eq!((status, outcomes(&answer)), (200, vec!["revealed", "denied", "denied"]));
    let event = place.access();
    assert_eq!((&event["allowed"], &event["roles"]), (&json!(false), &json!(["desk"])));
    assert_eq!(event["values"][1]["outcome"], "denied");

    let email = place.asked("crm/fraud", "email");
    for (roles, purpose) in [
        (&["desk"][..], "ticket"),
        (&["idle"], "case"),
        (&[], "case"),
        (&["nobody"], "case"),
        (&["lead"], "canary"),
        (&["lead"], ""),
    ] {
        let body = json!({"purpose": purpose, "values": [email]});
        let (status, answer) = place.reveal("eve", roles, &body);
        assert_eq!((status, outcomes(&answer)), (403, vec!["denied"]), "{roles:?} {purpose}");
        assert_eq!(place.access()["allowed"], false);
    }
    assert_eq!(place.access()["purpose"], "<unknown>");

    // Changed, moved, foreign: refused, without a reason.
    let sealed = &place.sealed[&("crm/fraud", "email")];
    let mut changed = URL_SAFE_NO_PAD.decode_to_vec(sealed).unwrap();
    *changed.last_mut().unwrap() ^= 1;
    let mut foreign = URL_SAFE_NO_PAD.decode_to_vec(sealed).unwrap();
    foreign[2] ^= 1;
    let of = |path: &str, value: &str| json!({"view": "crm/fraud", "path": path, "value": value});
    let values = [
        of("email", &encode(changed)),
        of("email", &encode(foreign)),
        of("email", &place.sealed[&("crm/support", "email")]),
        of("phones[].number", sealed),
        of("email", ""),
        of("email", "canary"),
        json!({"view": "crm/fraud", "path": "email", "value": sealed, "class": "phone"}),
    ];
    let (status, answer) =
        place.reveal("ann", &["lead"], &json!({"purpose": "case", "values": values}));
    assert_eq!((status, outcomes(&answer)), (200, vec!["refused"; 7]));
    // What is nowhere in the policies is denied, and its names may be anything.
    for asked in [
        json!({"view": "crm/canary", "path": "email", "value": sealed}),
        json!({"view": "canary", "path": "email", "value": sealed}),
        json!({"view": "crm/fraud", "path": "canary", "value": sealed}),
        json!({"view": "crm/fraud", "path": "email", "class": "canary", "value": sealed}),
    ] {
        let body = json!({"purpose": "case", "values": [asked]});
        let (status, answer) = place.reveal("ann", &["lead"], &body);
        assert_eq!((status, outcomes(&answer)), (403, vec!["denied"]));
    }

    // Where a treatment names its domain, the class is no part of it: no other can be claimed.
    let own = place.asked("crm/joined", "email");
    let mut claimed = place.asked("crm/joined", "phones[].number");
    claimed["class"] = json!("email");
    let body = json!({"purpose": "case", "values": [own, claimed]});
    let (status, answer) = place.reveal("ann", &["mail"], &body);
    assert_eq!((status, outcomes(&answer)), (200, vec!["revealed", "denied"]));

    assert_eq!(place.worker.metric("veilstream_revealed_values_total", "\"revealed\""), 5.0);
    assert_eq!(place.worker.metric("veilstream_revealed_values_total", "\"refused\""), 7.0);
    let trail = place.scene.consume("audit");
    for message in &trail {
        let text = String::from_utf8_lossy(message.payload.as_deref().unwrap()).into_owned();
        assert!(!text.contains("canary"), "a value in the audit trail: {text}");
    }
    let log = place.worker.log();
    assert!(!log.contains("canary") && !log.contains(sealed.as_str()), "{log}");
    assert!(place.worker.stop().success());
}

#[test]
fn malformed_requests_are_refused_with_their_place_and_too_many_with_a_time() {
    let extra = "  requests_per_minute: 30\n  values_per_request: 2\n";
    let place = Place::new("malformed", extra);
    let token = place.token("ann", &["lead"]);
    for (body, expected) in [
        ("", 400),
        ("{", 400),
        ("[]", 400),
        (r#"{"purpose":"case"}"#, 400),
        (r#"{"purpose":"case","values":[]}"#, 400),
        (r#"{"purpose":"case","values":[1]}"#, 400),
        (r#"{"purpose":"case","values":[{"view":"canary"}]}"#, 400),
        (r#"{"purpose":"case","values":[],"canary":1}"#, 400),
    ] {
        let (status, answer) = place.post("/v1/reveal", Some(&token), body);
        assert_eq!(status, expected, "{body}");
        assert!(!answer["error"].as_str().unwrap().contains("canary"), "{answer}");
    }
    let email = place.asked("crm/fraud", "email");
    let many = json!({"purpose": "case", "values": [email, email, email]});
    let (status, answer) = place.reveal("ann", &["lead"], &many);
    assert_eq!((status, &answer["error"]), (400, &json!("`values`: 1 to 2 of them")));
    let large = format!(r#"{{"purpose":"{}","values":[]}}"#, "x".repeat(2 << 20));
    // The answer may come before all of it was sent: then the connection may end instead.
    let sent = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        place.post("/v1/reveal", Some(&token), &large).0
    }));
    assert!(sent.is_err() || sent.is_ok_and(|status| status == 413));

    let one = json!({"purpose": "case", "values": [email]});
    let mut last = 0;
    for _ in 0..40 {
        last = place.reveal("ann", &["lead"], &one).0;
        if last != 200 {
            break;
        }
    }
    assert_eq!(last, 429);
    assert_eq!(place.reveal("bob", &["lead"], &one).0, 200, "each actor has a limit of their own");
    assert!(place.worker.stop().success());
}

#[test]
fn only_a_sound_token_lets_in() {
    let place = Place::new("tokens", "");
    let body =
        json!({"purpose": "case", "values": [place.asked("crm/fraud", "email")]}).to_string();
    let post = |token: &str| place.post("/v1/reveal", Some(token), &body).0;
    let sound = claims("ann", &["lead"]);
    assert_eq!(post(&place.key.token("k1", &sound)), 200);
    let mut words = sound.clone();
    words["roles"] = json!("idle lead");
    words["aud"] = json!(["other", "veilstream"]);
    assert_eq!(post(&place.key.token("k1", &words)), 200);
    // No key is named, and there is only one.
    assert_eq!(post(&place.key.sign(&json!({"alg": "ES256"}), &sound)), 200);

    let but = |name: &str, value: Value| {
        let mut claims = sound.clone();
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value,
        }
        claims
    };
    for claims in [
        but("exp", json!(now() - 60)),
        but("exp", Value::Null),
        but("exp", json!("soon")),
        but("nbf", json!(now() + 600)),
        but("iss", json!("https://id.example/")),
        but("iss", Value::Null),
        but("aud", json!("other")),
        but("aud", Value::Null),
        but("sub", Value::Null),
        but("sub", json!("")),
        but("sub", json!(7)),
        but("sub", json!("a\nb")),
    ] {
        assert_eq!(post(&place.key.token("k1", &claims)), 401, "{claims}");
    }
    // Signed by another, by another algorithm, by none, or with the public key as a secret.
    let other = Key::p256();
    assert_eq!(post(&other.token("k1", &sound)), 401);
    assert_eq!(post(&other.token("k2", &sound)), 401);
    assert_eq!(post(&Key::ed25519().token("k1", &sound)), 401);
    for algorithm in ["none", "HS256", "RS256", "ES384", "EdDSA"] {
        let header = json!({"alg": algorithm, "kid": "k1"});
        assert_eq!(post(&place.key.sign(&header, &sound)), 401, "{algorithm}");
    }
    let token = place.key.token("k1", &sound);
    let (signed, _) = token.rsplit_once('.').unwrap();
    let mut flipped = token.clone().into_bytes();
    let at = flipped.len() - 5;
    flipped[at] = if flipped[at] == b'A' { b'B' } else { b'A' };
    for token in [
        "",
        "a",
        "a.b",
        "a.b.c",
        &format!("{signed}."),
        signed,
        &String::from_utf8(flipped).unwrap(),
    ] {
        assert_eq!(post(token), 401, "{token}");
    }
    assert_eq!(place.post("/v1/reveal", None, &body).0, 401);
    assert_eq!(place.post("/v1/approve", None, "{}").0, 401);
    let audited = place.scene.audit("access").len();
    assert_eq!(audited, 3, "who is nobody asks for nothing");
    assert!(place.worker.metric("veilstream_revealed_values_total", "unauthorized") > 20.0);
    assert!(place.worker.stop().success());
}

#[test]
fn what_needs_a_second_person_is_shown_once_one_has_agreed_to_these_very_values() {
    let place = Place::new("approval", "");
    let ask = |approval: Option<&Value>, values: Vec<Value>| {
        let mut body = json!({"purpose": "case", "values": values});
        if let Some(approval) = approval {
            body["approval"] = approval.clone();
        }
        body
    };
    let card = place.asked("crm/fraud", "card");
    let (status, answer) = place.reveal("ann", &["lead"], &ask(None, vec![card.clone()]));
    assert_eq!((status, outcomes(&answer)), (403, vec!["needs_approval"]));
    assert_eq!(place.access()["allowed"], false);
    let request = answer["request"].clone();
    let approve = |actor: &str, roles: &[&str], request: &Value| {
        let body = json!({"request": request}).to_string();
        place.post("/v1/approve", Some(&place.token(actor, roles)), &body)
    };
    // Not by oneself, not by one who may not see it, and not of anything else.
    assert_eq!(approve("ann", &["lead"], &request).0, 403);
    assert_eq!(approve("bob", &["desk"], &request).0, 403);
    assert_eq!(approve("bob", &["lead"], &json!("a.b")).0, 400);
    // A request is no approval.
    assert_eq!(place.reveal("ann", &["lead"], &ask(Some(&request), vec![card.clone()])).0, 400);
    let (status, agreed) = approve("bob", &["lead"], &request);
    assert_eq!(status, 200, "{agreed}");
    let approval = &agreed["approval"];
    let event = place.access();
    assert_eq!((&event["what"], &event["actor"]), (&json!("approve"), &json!("bob")));
    assert_eq!(approve("carl", &["lead"], approval).0, 400, "an approval is no request");

    let (status, answer) = place.reveal("ann", &["lead"], &ask(Some(approval), vec![card.clone()]));
    assert_eq!(status, 200, "{answer}");
    // Format-preserving encryption has no room for a name of its key or a tag.
    assert_eq!(
        answer["values"],
        json!([{"outcome": "revealed", "value": "4111 1111 1111 1111", "unauthenticated": true}])
    );
    assert_eq!(place.access()["approved_by"], "bob");

    // Not for another value, another actor or another purpose.
    let other = json!({"view": "crm/fraud", "path": "card", "value": "4222 2222 2222 2222"});
    assert_eq!(place.reveal("ann", &["lead"], &ask(Some(approval), vec![other])).0, 400);
    assert_eq!(place.reveal("eve", &["lead"], &ask(Some(approval), vec![card.clone()])).0, 400);
    let mut ticket = ask(Some(approval), vec![card.clone()]);
    ticket["purpose"] = json!("ticket");
    assert_eq!(place.reveal("ann", &["lead"], &ticket).0, 400);
    let forged = place.access();
    assert_eq!((&forged["what"], &forged["allowed"]), (&json!("reveal"), &json!(false)));
    // Without the role an approval is worth nothing.
    let (status, answer) = place.reveal("ann", &["idle"], &ask(Some(approval), vec![card]));
    assert_eq!((status, outcomes(&answer)), (403, vec!["denied"]));
    assert!(place.worker.stop().success());
}

/// What is quarantined is raw: where there are roles, one of them opens it.
#[test]
fn quarantine_opens_for_a_role_alone() {
    let place = Place::new("steward", "");
    place.scene.produce("raw", &[(Some("8"), r#"{"id":8,"email":"canary"#)]);
    wait_consumed(&place.worker, 2);
    let record = format!("{}.raw/0/1", place.scene.prefix);
    let show = || place.scene.quarantine("one", "show", &[&record, "--purpose", "ticket"]);
    let replay = || place.scene.quarantine("one", "replay", &["--all", "--purpose", "ticket"]);
    let asks: [(&dyn Fn() -> Output, &str); 2] =
        [(&show, "quarantine-show"), (&replay, "quarantine-replay")];
    for (ask, what) in asks {
        let denied = ask();
        assert_eq!(denied.status.code(), Some(1));
        assert!(denied.stdout.is_empty());
        let said = String::from_utf8_lossy(&denied.stderr);
        assert!(said.contains("no role of theirs has `quarantine: true`"), "{said}");
        let event = place.access();
        assert_eq!((&event["what"], &event["allowed"]), (&json!(what), &json!(false)));
        assert_eq!((&event["roles"], &event["records"]), (&json!(["lead"]), &json!([record])));
    }
    let roles = ROLES.replace("  idle:", "  steward: { quarantine: true }\n  idle:");
    let users = format!("users: {{ {}: [lead, steward] }}\n", user());
    fs::write(place.scene.site.path("roles.yaml"), format!("{roles}{users}")).unwrap();
    assert!(stdout(&show()).contains("canary"));
    assert_eq!(place.access()["roles"], json!(["lead", "steward"]));
    stdout(&replay());
    wait_consumed(&place.worker, 3);
    assert!(place.worker.stop().success());
}

#[test]
fn the_command_line_asks_as_the_user_of_the_operating_system() {
    let place = Place::new("command", "");
    let email = place.sealed[&("crm/fraud", "email")].as_str();
    let of = ["reveal", "--view", "crm/fraud", "--path", "email", "--purpose"];
    let shown = place.command(&[&of[..], &["case", email]].concat());
    assert_eq!(stdout(&shown), "\"canary@example.com\"\n");
    let event = place.access();
    assert_eq!((event["actor"].as_str(), event["by"].as_str()), (Some(&*user()), Some("user")));
    assert_eq!((&event["roles"], &event["purpose"]), (&json!(["lead"]), &json!("case")));

    let denied = place.command(&[&of[..], &["other", email]].concat());
    assert_eq!(denied.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&denied.stdout), "(denied)\n");
    let said = String::from_utf8_lossy(&denied.stderr).into_owned();
    assert!(said.contains("with the roles [lead]: 1 denied"), "{said}");
    assert_eq!(place.access()["allowed"], false);

    // Many, from a file.
    let lines = [
        place.asked("crm/fraud", "email"),
        place.asked("crm/support", "email"),
        place.asked("crm/fraud", "card"),
    ];
    let lines = lines.map(|line| line.to_string()).join("\n");
    let file = place.scene.site.path("asked.ndjson");
    fs::write(&file, format!("{lines}\n\n")).unwrap();
    let file = file.to_str().unwrap();
    let shown = place.command(&["reveal", "--file", file, "--purpose", "case", "--json"]);
    assert_eq!(shown.status.code(), Some(1), "one waits for approval");
    let text = String::from_utf8(shown.stdout).unwrap();
    let shown: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        shown[1],
        json!({"view": "crm/support", "path": "email", "outcome": "revealed", "value": "canary@example.com"})
    );
    assert_eq!(shown[2]["outcome"], "needs_approval");
    // Nobody agrees to what they have asked for themselves.
    let request = shown[3]["request"].as_str().unwrap();
    let agreed = place.command(&["approve", "--yes", request]);
    assert_eq!(agreed.status.code(), Some(1));
    let said = String::from_utf8_lossy(&agreed.stderr).into_owned();
    assert!(said.contains("card of crm/fraud") && said.contains("may not agree"), "{said}");
    // Nor under the name that they have for the provider.
    let body = json!({"request": request}).to_string();
    let (status, _) = place.post("/v1/approve", Some(&place.token("bob", &["lead"])), &body);
    assert_eq!(status, 403);
    // Somebody else does: root says who it is by sudo.
    if user() != "root" {
        return;
    }
    let agreed = Command::new(BINARY)
        .args(["approve", "--yes", request, "--config"])
        .arg(place.scene.site.path("one.yaml"))
        .env("SUDO_UID", "1")
        .output()
        .unwrap();
    assert_eq!(place.access()["actor"], "daemon");
    let approval = &*stdout(&agreed);
    let approval = approval.trim();
    let shown =
        place.command(&["reveal", "--file", file, "--purpose", "case", "--approval", approval]);
    assert_eq!(stdout(&shown).lines().last(), Some("\"4111 1111 1111 1111\""));

    fs::write(file, "{\"view\": \"canary\"}\n").unwrap();
    let wrong = place.command(&["reveal", "--file", file, "--purpose", "case"]);
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(wrong.status.code() == Some(2) && said.contains("asked.ndjson:1:"), "{said}");
    assert!(!said.contains("canary"), "{said}");

    // Roles that are wrong stop nothing that is at work, and let no command begin.
    fs::write(place.scene.site.path("roles.yaml"), "roles: { lead: { views: crm/nothing } }")
        .unwrap();
    wait_until("the refusal", || place.worker.log().contains("`crm/nothing`"));
    let refused = place.command(&[&of[..], &["case", email]].concat());
    assert_eq!(refused.status.code(), Some(2));
    let body = json!({"purpose": "case", "values": [place.asked("crm/fraud", "email")]});
    assert_eq!(place.reveal("ann", &["lead"], &body).0, 200);
    // Roles that are right are in force.
    fs::write(
        place.scene.site.path("roles.yaml"),
        "purposes: case\nroles: { lead: { views: crm/fraud } }",
    )
    .unwrap();
    wait_until("the new roles", || place.reveal("ann", &["lead"], &body).0 == 403);
    assert!(place.worker.stop().success());
}

#[test]
fn nothing_is_shown_that_cannot_be_written_down() {
    let broker = Arc::new(Broker::start("unwritten"));
    if broker.is_external() {
        return;
    }
    let topics = [("raw", 1), ("fraud", 1), ("support", 1), ("joined", 1)];
    let mut scene = Scene::new(Arc::clone(&broker), "unwritten", POLICY, &topics);
    let key = Key::p256();
    fs::write(scene.site.path("jwks.json"), json!({"keys": [key.jwk("k1")]}).to_string()).unwrap();
    fs::write(scene.site.path("roles.yaml"), ROLES).unwrap();
    scene.site.extra = "access: { roles: roles.yaml, tokens: { issuer: 'https://id.example', audience: veilstream, \
                        keys: jwks.json, algorithm: ES256 } }"
        .into();
    scene.produce("raw", &[(Some("7"), EVENT)]);
    let worker = scene.site.start("one");
    wait_consumed(&worker, 1);
    let sealed = scene.values("fraud").remove(0)["email"].as_str().unwrap().to_owned();
    let place =
        Place { scene, key, worker, sealed: BTreeMap::from([(("crm/fraud", "email"), sealed)]) };
    let body = json!({"purpose": "case", "values": [place.asked("crm/fraud", "email")]});
    broker.kill();
    let (status, answer) = place.reveal("ann", &["lead"], &body);
    assert_eq!((status, answer), (503, json!({"error": "the audit trail or the keys are away"})));
    broker.start_again();
    wait_until("an answer", || place.reveal("ann", &["lead"], &body).0 == 200);
    assert_eq!(place.access()["allowed"], true);
    assert!(place.worker.stop().success());
}

/// An OpenID provider that answers what it is told to.
struct Provider {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    away: Arc<AtomicBool>,
}

impl Provider {
    fn start(answers: impl Fn(&str, SocketAddr) -> String + Send + 'static) -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, away) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, gone) = (Arc::clone(&asked), Arc::clone(&away));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                counted.fetch_add(1, Ordering::SeqCst);
                let body = answers(request.split(' ').nth(1).unwrap_or_default(), address);
                let status = if gone.load(Ordering::SeqCst) { "500 No" } else { "200 OK" };
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
            }
        });
        Provider { address, asked, away }
    }
}

fn told(issuer: &str, algorithm: TokenAlgorithm) -> Tokens {
    Tokens {
        issuer: issuer.to_owned(),
        audience: "veilstream".into(),
        keys: None,
        algorithm,
        roles_claim: "roles".into(),
        actor_claim: "sub".into(),
        ca: None,
    }
}

#[test]
fn keys_are_discovered_and_asked_for_again_but_not_by_everybody() {
    let key = Key::ed25519();
    let set = json!({"keys": [key.jwk("k1")]}).to_string();
    let provider = Provider::start(move |page, address| {
        match page {
        "/.well-known/openid-configuration" => {
            json!({"issuer": format!("http://{address}"), "jwks_uri": format!("http://{address}/keys")})
                .to_string()
        }
        _ => set.clone(),
    }
    });
    let issuer = format!("http://{}", provider.address);
    let verifier = Verifier::new(&told(&issuer, TokenAlgorithm::EdDSA), ".".as_ref()).unwrap();
    let mut claims = claims("ann", &["lead"]);
    claims["iss"] = json!(issuer);
    provider.away.store(true, Ordering::SeqCst);
    let token = key.token("k1", &claims);
    assert!(matches!(verifier.actor(&token), Err(TokenError::Away(_))));
    let asked = provider.asked.load(Ordering::SeqCst);
    assert!(matches!(verifier.actor(&token), Err(TokenError::Away(_))));
    assert_eq!(provider.asked.load(Ordering::SeqCst), asked, "not at every request");
    provider.away.store(false, Ordering::SeqCst);
    wait_until("the keys", || verifier.actor(&token).is_ok());
    let actor = verifier.actor(&token).unwrap();
    assert_eq!((actor.name.as_str(), &*actor.roles), ("ann", &["lead".to_owned()][..]));
    let asked = provider.asked.load(Ordering::SeqCst);
    for at in 0..50 {
        let unknown = key.token(&format!("made up {at}"), &claims);
        assert!(matches!(verifier.actor(&unknown), Err(TokenError::Refused(_))));
        assert!(verifier.actor(&token).is_ok());
    }
    assert_eq!(provider.asked.load(Ordering::SeqCst), asked, "anybody can name a key");
}

#[test]
fn a_provider_that_is_another_or_unsafe_is_not_believed() {
    for (issuer, keys) in [
        ("http://another.example", "http://127.0.0.1:1/keys"),
        ("SELF/", "http://127.0.0.1:1/keys"),
        ("SELF", "http://keys.example/keys"),
        ("SELF", "file:///etc/passwd"),
        ("SELF", ""),
    ] {
        let provider = Provider::start(move |_, address| {
            let issuer = issuer.replace("SELF", &format!("http://{address}"));
            json!({"issuer": issuer, "jwks_uri": keys}).to_string()
        });
        let at = format!("http://{}", provider.address);
        let verifier = Verifier::new(&told(&at, TokenAlgorithm::EdDSA), ".".as_ref()).unwrap();
        let said = verifier.actor(&Key::ed25519().token("k1", &claims("ann", &[])));
        assert!(matches!(said, Err(TokenError::Away(_))), "{issuer} {keys}: {said:?}");
    }
    let unsafe_one = Verifier::new(&told("http://id.example", TokenAlgorithm::EdDSA), ".".as_ref());
    assert!(matches!(unsafe_one, Err(TokenError::Setting(_))));
}

/// Signed by Python's `cryptography`: RSA keys are not ring's to make.
#[test]
fn tokens_of_another_implementation_are_believed() {
    let program = r#"
import base64, json, sys, time
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
e = lambda b: base64.urlsafe_b64encode(b).rstrip(b"=").decode()
key = rsa.generate_private_key(65537, 2048)
n = key.public_key().public_numbers().n
jwk = {"kty": "RSA", "kid": "r", "n": e(b"\0" + n.to_bytes(256, "big")), "e": "AQAB"}
claims = {"iss": "https://id.example", "aud": "veilstream", "sub": "ann", "roles": ["lead"], "exp": int(time.time()) + 300}
def token(padding_, algorithm="RS256"):
    text = e(json.dumps({"alg": algorithm, "kid": "r"}).encode()) + "." + e(json.dumps(claims).encode())
    return text + "." + e(key.sign(text.encode(), padding_, hashes.SHA256()))
pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
print(json.dumps({"keys": [jwk]})); print(token(padding.PKCS1v15())); print(token(pss)); print(token(pss, "PS256"))
"#;
    let said =
        Command::new("python3").env("PYTHONPATH", python()).args(["-c", program]).output().unwrap();
    let said = stdout(&said);
    let lines: Vec<&str> = said.lines().collect();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("jwks.json"), lines[0]).unwrap();
    let told = Tokens {
        keys: Some("jwks.json".into()),
        ..told("https://id.example", TokenAlgorithm::RS256)
    };
    let verifier = Verifier::new(&told, folder.path()).unwrap();
    assert_eq!(verifier.actor(lines[1]).unwrap().name, "ann");
    assert!(matches!(verifier.actor(lines[2]), Err(TokenError::Refused(_))));
    assert!(matches!(verifier.actor(lines[3]), Err(TokenError::Refused(_))));
    let pinned = Tokens { algorithm: TokenAlgorithm::ES256, ..told };
    let verifier = Verifier::new(&pinned, folder.path()).unwrap();
    assert!(matches!(verifier.actor(lines[1]), Err(TokenError::Refused(_))));
}
