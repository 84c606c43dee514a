//! Places as the cell of a geohash that they lie in (Niemeyer 2008).

use crate::json::{Value, write_string};
use crate::operator::{Operator, Refusal, Scratch, characters};

/// Tells so many characters.
pub(super) struct Geohash {
    /// From 1 to 12.
    pub(super) length: usize,
}

impl Operator for Geohash {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let place = characters(value, &mut scratch.text)?.trim();
        let cell = match place.split_once(',') {
            Some((latitude, longitude)) => {
                let degrees = |text: &str| text.trim().parse::<f64>().ok();
                let (y, x) = degrees(latitude).zip(degrees(longitude)).ok_or(Refusal::WrongType)?;
                // The last degree belongs to the last cell.
                let inside =
                    |degrees: f64, end: f64| if degrees == end { end - 1e-7 } else { degrees };
                let place = geohash::Coord { x: inside(x, 180.0), y: inside(y, 90.0) };
                geohash::encode(place, self.length).map_err(|_| Refusal::WrongType)?
            }
            None => {
                let cell = place.to_ascii_lowercase();
                // Digits alone are a postal code or a phone number sooner than a place.
                let known = (1..=12).contains(&cell.len())
                    && cell.bytes().any(|byte| byte.is_ascii_alphabetic())
                    && geohash::decode(&cell).is_ok();
                let told = cell.get(..self.length).unwrap_or(&cell);
                known.then(|| told.to_owned()).ok_or(Refusal::WrongType)?
            }
        };
        write_string(out, &cell);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{apply, assert_gives, assert_refuses, assert_wrong};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn places_become_cells() {
        // Of Niemeyer's own example.
        assert_gives(
            "generalize: { geohash: 5 }",
            &[
                (r#""42.605,-5.603""#, "ezs42"),
                (r#"" 42.605 , -5.603 ""#, "ezs42"),
                (r#""ezs42000""#, "ezs42"),
                (r#""EZS42E""#, "ezs42"),
                (r#""ezs""#, "ezs"),
                (r#""90,180""#, "zzzzz"),
                (r#""-90,-180""#, "00000"),
            ],
        );
        assert_gives("generalize: { geohash: 11 }", &[(r#""57.64911,10.40744""#, "u4pruydqqvj")]);
        for input in [
            r#""""#,
            r#""a""#,
            r#""91,0""#,
            r#""0,181""#,
            r#""NaN,0""#,
            r#""inf,1""#,
            r#""1,2,3""#,
            r#"",""#,
            "42.6",
            "75011",
            r#""0612345678""#,
        ] {
            assert_refuses("generalize: { geohash: 5 }", input, Refusal::WrongType);
        }
        assert_wrong("generalize: { geohash: 13 }", "from 1 to 12");
    }

    proptest! {
        #[test]
        fn any_text_is_a_place_or_refused(text in "\\PC*|[0-9., -]{0,20}") {
            let _ = apply("generalize: { geohash: 6 }", &serde_json::to_string(&text).unwrap());
        }
    }
}
