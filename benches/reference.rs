//! The reference events: Debezium updates of a customer table of 25 columns, half of them with the image
//! before the change, about 1260 bytes each; per image two fields are encrypted, one tokenized, three masked, one
//! date cut to its year, one dropped.

use rand::{RngExt, SeedableRng, rngs::StdRng};

pub const POLICY: &str = "
policy: bench
version: 1
source: { topic: crm.customers.raw, format: debezium }
subject: customer_id
fields:
  customer_id: identifier
  full_name: name
  email: email
  phone: phone
  card_number: payment_card
  national_id: national_id
  street: address
  birth_date: birth_date
  notes: free_text
  city: public
  country: public
  postal_region: public
  plan: public
  status: public
  currency: public
  balance: public
  credit_limit: public
  orders: public
  score: public
  segment: public
  channel: public
  locale: public
  verified: public
  created_at: public
  updated_at: public
views:
  analytics:
    topic: crm.customers.analytics
    classes:
      identifier: tokenize
      name: { mask: name }
      email: { mask: email }
      phone: { mask: phone }
      payment_card: encrypt
      national_id: encrypt
      address: drop
      birth_date: { generalize: { date: year } }
      free_text: keep
      public: keep
";

/// A second audience: other treatments of the same fields.
pub const SECOND_VIEW: &str = "
  fraud:
    topic: crm.customers.fraud
    classes:
      identifier: tokenize
      name: redact
      email: { mask: email }
      phone: { mask: { keep_last: 4 } }
      payment_card: { mask: payment_card }
      national_id: drop
      address: keep
      birth_date: keep
      free_text: drop
      public: keep
";

/// The same policy with every field kept: what the pass itself costs.
pub fn keep_all(policy: &str) -> String {
    let (head, classes) = policy.split_once("classes:\n").unwrap_or_default();
    let kept = classes.lines().filter_map(|line| line.split_once(':'));
    let kept: String = kept.map(|(class, _)| format!("{class}: keep\n")).collect();
    format!("{head}classes:\n{kept}")
}

fn image(random: &mut StdRng, id: u32) -> String {
    let mut digits = |count: usize| -> String {
        (0..count).map(|_| char::from(b'0' + random.random_range(0..10))).collect()
    };
    let (card, national, phone, street) = (digits(16), digits(9), digits(10), digits(3));
    let (cents, limit, orders, score) = (digits(5), digits(4), digits(2), digits(4));
    format!(
        "{{\"customer_id\":{id},\"full_name\":\"Anne Kretchmar\",\"email\":\"anne.k{id}@example.com\",\
         \"phone\":\"+1{phone}\",\"card_number\":\"{card}\",\"national_id\":\"{national}\",\
         \"street\":\"{street} North Main Street, Apt. 4\",\"birth_date\":\"1985-04-12\",\
         \"notes\":\"called about the invoice of March, asked for a copy by post and a call back\",\"city\":\"Springfield Gardens\",\"country\":\"US\",\
         \"postal_region\":\"6270\",\"plan\":\"gold\",\"status\":\"active\",\"currency\":\"USD\",\
         \"balance\":1{cents}.50,\"credit_limit\":1{limit},\"orders\":1{orders},\"score\":0.1{score},\
         \"segment\":\"b2c\",\"channel\":\"web\",\"locale\":\"en_US\",\"verified\":true,\
         \"created_at\":1490000000000,\"updated_at\":1559033904863}}"
    )
}

/// `count` events, always the same.
pub fn events(count: usize) -> Vec<String> {
    let mut random = StdRng::seed_from_u64(1);
    (0..count)
        .map(|number| {
            let id = random.random_range(100_000..1_000_000);
            let before = if number % 2 == 0 { image(&mut random, id) } else { "null".into() };
            let after = image(&mut random, id);
            format!(
                "{{\"before\":{before},\"after\":{after},\"source\":{{\"version\":\"3.0.0\",\
                 \"connector\":\"postgresql\",\"name\":\"crm\",\"ts_ms\":1559033904863,\
                 \"snapshot\":\"false\",\"db\":\"crm\",\"sequence\":\"[\\\"24023119\\\",\\\"24023128\\\"]\",\
                 \"schema\":\"public\",\"table\":\"customers\",\"txId\":555,\"lsn\":{},\"xmin\":null}},\
                 \"op\":\"u\",\"ts_ms\":1559033904963,\"transaction\":null}}",
                24_023_128 + number
            )
        })
        .collect()
}
