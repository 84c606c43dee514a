#[path = "../tests/support/engine.rs"]
mod engine;
mod reference;
use std::time::Instant;
use veilstream::rewrite::RawRecord;
fn main() {
    let events = reference::events(5000);
    let bytes: usize = events.iter().map(String::len).sum();
    println!("avg {}", bytes / events.len());
    let one = reference::POLICY.to_string();
    let two = format!("{}{}", reference::POLICY, reference::SECOND_VIEW);
    let mut a = engine::engine(&one);
    let mut b = engine::engine(&two);
    let keep = one
        .replace("encrypt", "keep")
        .replace("tokenize", "keep")
        .replace("{ mask: name }", "keep")
        .replace("{ mask: email }", "keep")
        .replace("{ mask: phone }", "keep")
        .replace("{ generalize: { date: year } }", "keep");
    let mut k = engine::engine(&keep);
    for _ in 0..4 {
        let t = Instant::now();
        for e in &events {
            let _: serde::de::IgnoredAny = serde_json::from_slice(e.as_bytes()).unwrap();
        }
        let v = t.elapsed().as_nanos() / 5000;
        let t = Instant::now();
        for e in &events {
            k.rewriter
                .rewrite(&RawRecord { key: None, value: Some(e.as_bytes()), headers: &[] })
                .unwrap();
        }
        let z = t.elapsed().as_nanos() / 5000;
        let t = Instant::now();
        for e in &events {
            a.rewriter
                .rewrite(&RawRecord { key: None, value: Some(e.as_bytes()), headers: &[] })
                .unwrap();
        }
        let x = t.elapsed().as_nanos() / 5000;
        let t = Instant::now();
        for e in &events {
            b.rewriter
                .rewrite(&RawRecord { key: None, value: Some(e.as_bytes()), headers: &[] })
                .unwrap();
        }
        let y = t.elapsed().as_nanos() / 5000;
        println!(
            "validate {v} keep {z} one {x} two {y}: {:.2} {:.2}",
            x as f64 / v as f64,
            y as f64 / x as f64
        );
    }
}
