//! Whether a live object still says all that was applied.

use serde_json::Value;

/// Whether `live` has everything that `wanted` has, as it has it. What `live` has besides was filled in by the API
/// server, or belongs to somebody else, such as an autoscaler or a mesh.
pub(super) fn covers(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| live.get(key).is_some_and(|live| covers(live, wanted)))
        }
        (Value::Array(live), Value::Array(wanted)) => {
            // Lists of named things are merged by name, other lists are one value.
            let named = wanted.iter().all(|item| item.get("name").is_some());
            if named {
                wanted.iter().all(|wanted| {
                    let same = live.iter().find(|live| live.get("name") == wanted.get("name"));
                    same.is_some_and(|live| covers(live, wanted))
                })
            } else {
                live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| covers(live, wanted))
            }
        }
        (Value::String(live), Value::String(wanted)) => live == wanted || same_quantity(live, wanted),
        (live, wanted) => live == wanted,
    }
}

/// The API server writes quantities its own way: `1000m` becomes `1`, `0.5` becomes `500m`.
fn same_quantity(a: &str, b: &str) -> bool {
    matches!((quantity(a), quantity(b)), (Some(a), Some(b)) if (a - b).abs() <= f64::EPSILON * a.abs())
}

/// Value of a quantity that has a suffix or a fraction somewhere (a bare number is not taken for one).
/// <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>
fn quantity(text: &str) -> Option<f64> {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        exponent => 10_f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::defaults_are_the_servers(json!({"a": 1, "b": 2}), json!({"a": 1}), true)]
    #[case::a_value_changed(json!({"a": 2}), json!({"a": 1}), false)]
    #[case::a_field_removed(json!({}), json!({"a": 1}), false)]
    #[case::another_container(json!([{"name": "mesh"}, {"name": "deliver", "x": 1, "y": 2}]), json!([{"name": "deliver", "x": 1}]), true)]
    #[case::our_container_changed(json!([{"name": "deliver", "x": 2}]), json!([{"name": "deliver", "x": 1}]), false)]
    #[case::arguments_are_one_value(json!(["a", "b", "c"]), json!(["a", "b"]), false)]
    #[case::milli(json!({"cpu": "1"}), json!({"cpu": "1000m"}), true)]
    #[case::fraction(json!({"cpu": "500m"}), json!({"cpu": "0.5"}), true)]
    #[case::binary(json!({"memory": "1Gi"}), json!({"memory": "1024Mi"}), true)]
    #[case::exponent(json!({"memory": "1M"}), json!({"memory": "1e6"}), true)]
    #[case::other(json!({"memory": "128Mi"}), json!({"memory": "128M"}), false)]
    #[case::text(json!("/livez"), json!("/readyz"), false)]
    fn what_was_applied_must_still_be_there(#[case] live: Value, #[case] wanted: Value, #[case] expected: bool) {
        assert_eq!(covers(&live, &wanted), expected);
    }
}
