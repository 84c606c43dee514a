//! Believable CRM traffic: customers created, changed and deleted, as Debezium tells of them, and now and then
//! something malformed. Every person is made up.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::kafka::OwnedRecord;

const FIRST: [&str; 12] = [
    "Anne", "Luis", "Mei", "Omar", "Ingrid", "Kwame", "Sofia", "Yuki", "Priya", "Pavel", "Zoë",
    "伟",
];
const LAST: [&str; 12] = [
    "Kretchmar",
    "Ortega",
    "Lindqvist",
    "Haddad",
    "Okafor",
    "Tanaka",
    "Sharma",
    "Novák",
    "Moreau",
    "Rossi",
    "O'Neill",
    "张",
];
const CITIES: [(&str, &str, &str); 6] = [
    ("Lyon", "69001", "FR"),
    ("Hamburg", "20095", "DE"),
    ("Austin", "73301", "US"),
    ("Osaka", "530-0001", "JP"),
    ("Lagos", "100001", "NG"),
    ("上海", "200000", "CN"),
];
const NOTES: [&str; 4] = [
    "asked for an invoice",
    "called from another number",
    "prefers e-mail",
    "wants to cancel in June",
];

/// No more customers than this, however long it runs.
const MOST: usize = 10_000;

/// A source of events; the same every time.
pub struct Customers {
    random: StdRng,
    customers: Vec<Value>,
    next_id: u64,
    position: u64,
}

impl Customers {
    pub fn new() -> Self {
        Customers {
            random: StdRng::seed_from_u64(7),
            customers: Vec::new(),
            next_id: 1001,
            position: 24_000_000,
        }
    }

    /// The records of the next change: one, or a delete and its tombstone.
    pub fn next(&mut self) -> Vec<OwnedRecord> {
        let dice = self.random.random_range(0..100);
        if dice < 2 {
            return vec![self.malformed()];
        }
        let count = self.customers.len();
        let one = self.random.random_range(0..count.max(1));
        if count < 20 || dice < 25 && count < MOST {
            let customer = self.customer();
            self.customers.push(customer.clone());
            vec![self.change("c", &Value::Null, &customer)]
        } else if dice < 92 || count < 40 {
            let before = self.customers.get(one).cloned().unwrap_or_default();
            let mut after = before.clone();
            match self.random.random_range(0..4) {
                0 => set(&mut after, "/phone", json!(self.phone())),
                1 => {
                    let balance = f64::from(self.random.random_range(0..90_000)) / 100.0;
                    set(&mut after, "/balance", json!(balance));
                }
                2 => {
                    let consent = self.random.random_range(0..3) > 0;
                    set(&mut after, "/consent/analytics", json!(consent));
                }
                _ => {
                    let gold = self.random.random_range(0..2) == 0;
                    set(&mut after, "/plan", json!(if gold { "gold" } else { "basic" }));
                }
            }
            if let Some(customer) = self.customers.get_mut(one) {
                customer.clone_from(&after);
            }
            vec![self.change("u", &before, &after)]
        } else {
            let before = self.customers.swap_remove(one);
            let delete = self.change("d", &before, &Value::Null);
            let tombstone = OwnedRecord { value: None, ..delete.clone() };
            vec![delete, tombstone]
        }
    }

    fn digits(&mut self, count: usize) -> String {
        (0..count).map(|_| char::from(b'0' + self.random.random_range(0..10_u8))).collect()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.random.random_range(0..from.len())).copied()
    }

    fn phone(&mut self) -> String {
        format!("+1 {} {}", self.digits(3), self.digits(7))
    }

    fn customer(&mut self) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        let (first, last) =
            (self.pick(&FIRST).unwrap_or_default(), self.pick(&LAST).unwrap_or_default());
        let (city, postal, country) = self.pick(&CITIES).unwrap_or_default();
        json!({
            "customer_id": id,
            "full_name": format!("{first} {last}"),
            "email": format!("{}.{}@example.com", first.to_lowercase(), id),
            "phone": self.phone(),
            "contacts": [{ "name": self.pick(&FIRST), "phone": self.phone() }],
            "address": {
                "street": format!("{} {} Street", self.digits(2), self.pick(&LAST).unwrap_or_default()),
                "city": city, "postal_code": postal, "country": country,
            },
            "birth_date": format!("{}-0{}-1{}", self.random.random_range(1940..2007),
                self.random.random_range(1..10), self.random.random_range(0..10)),
            "card_number": format!("4{}", self.digits(15)),
            "national_id": self.digits(9),
            "last_ip": format!("203.0.113.{}", self.random.random_range(1..255)),
            "notes": self.pick(&NOTES),
            "plan": "basic",
            "balance": f64::from(self.random.random_range(0..90_000)) / 100.0,
            "consent": { "analytics": self.random.random_range(0..4) > 0 },
            // No path of the policy names it: it is dropped, and counted.
            "internal_score": self.random.random_range(0..100),
            "updated_at": super::now_ms(),
        })
    }

    fn change(&mut self, op: &str, before: &Value, after: &Value) -> OwnedRecord {
        self.position += 56;
        let row = if after.is_null() { before } else { after };
        let key = json!({ "customer_id": row.get("customer_id") });
        let event = json!({
            "before": before,
            "after": after,
            "source": {
                "version": "3.0.0", "connector": "postgresql", "name": "crm", "ts_ms": super::now_ms(),
                "snapshot": "false", "db": "crm", "schema": "public", "table": "customers",
                "lsn": self.position, "query": "UPDATE customers SET …",
            },
            "op": op,
            "ts_ms": super::now_ms(),
        });
        record(key.to_string(), event.to_string())
    }

    /// What goes wrong in practice: cut off, no event at all, a type that changed, no JSON key.
    fn malformed(&mut self) -> OwnedRecord {
        let customer = self.customer();
        let good = self.change("c", &Value::Null, &customer);
        let text = good.value.clone().unwrap_or_default();
        match self.random.random_range(0..4) {
            0 => OwnedRecord { value: text.get(..text.len() / 2).map(<[u8]>::to_vec), ..good },
            1 => OwnedRecord { value: Some(b"null".to_vec()), ..good },
            2 => {
                let mut odd = customer;
                let email = odd.get("email").cloned();
                set(&mut odd, "/email", json!({ "work": email }));
                self.change("c", &Value::Null, &odd)
            }
            _ => OwnedRecord { key: Some(b"customer 1001".to_vec()), ..good },
        }
    }
}

/// Changes a field that is there, by its JSON pointer (RFC 6901).
fn set(row: &mut Value, pointer: &str, value: Value) {
    if let Some(field) = row.pointer_mut(pointer) {
        *field = value;
    }
}

fn record(key: String, value: String) -> OwnedRecord {
    OwnedRecord {
        timestamp_ms: Some(super::now_ms()),
        key: Some(key.into_bytes()),
        value: Some(value.into_bytes()),
        ..OwnedRecord::default()
    }
}
