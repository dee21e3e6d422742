//! Kubernetes quantities as bytes: `100Gi`, `4k`, `1.5e3`; the grammar of apimachinery's `resource.Quantity`.
//!
//! Exact integers only: a fraction of a byte is rounded up, and what is beyond 2^63 - 1 counts as that, as in
//! Kubernetes. Negative quantities are refused, because no field of the API means anything by them.

/// A text that is no quantity of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a quantity of bytes: {reason}; write it as 100Gi, 64Mi or 4096")]
pub struct QuantityError {
    text: String,
    reason: &'static str,
}

/// Largest quantity, as in Kubernetes.
const MAX: u64 = i64::MAX as u64;

/// The bytes that `text` says.
pub fn bytes(text: &str) -> Result<u64, QuantityError> {
    parse(text).map_err(|reason| QuantityError { text: text.to_owned(), reason })
}

fn parse(text: &str) -> Result<u64, &'static str> {
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return Err("it begins with no number");
    }
    if fraction.contains('.') {
        return Err("it has two decimal points");
    }
    // value = digits * 10^-fraction.len() * scale
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.len() > 36 {
        return Err("it has too many digits");
    }
    let mantissa: u128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| "it begins with no number")? };
    let (binary, decimal): (u32, i32) = match suffix {
        "" => (0, 0),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        _ => match suffix.strip_prefix(['e', 'E']) {
            Some(exponent) => {
                let exponent: i32 = exponent.parse().map_err(|_| "its unit is unknown")?;
                (0, exponent)
            }
            None => return Err("its unit is unknown"),
        },
    };
    if mantissa == 0 {
        return Ok(0);
    }
    if negative {
        return Err("it is negative");
    }
    let decimal = decimal.saturating_sub(i32::try_from(fraction.len()).map_err(|_| "it has too many digits")?);
    let mut value = mantissa.saturating_mul(1 << binary);
    if decimal >= 0 {
        for _ in 0..decimal {
            value = value.saturating_mul(10);
            if value > u128::from(MAX) {
                break;
            }
        }
    } else {
        // Rounding up at each step is rounding up once: ceil(ceil(x / 10) / 10) = ceil(x / 100).
        for _ in 0..decimal.unsigned_abs() {
            value = value.div_ceil(10);
            if value == 1 {
                break;
            }
        }
    }
    Ok(u64::try_from(value).unwrap_or(MAX).min(MAX))
}

/// `bytes` as people write it, rounded to three digits at most: `0`, `512`, `4Ki`, `1.5Gi`.
pub fn format(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut unit = 0;
    let mut scaled = bytes as f64;
    while scaled >= 1023.5 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 || scaled >= 99.95 || (scaled - scaled.round()).abs() < 0.05 {
        format!("{}{}", scaled.round(), UNITS[unit])
    } else {
        format!("{scaled:.1}{}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_mean_what_kubernetes_means() {
        for (text, wanted) in [
            ("0", 0),
            ("4096", 4096),
            ("+5", 5),
            ("1Ki", 1024),
            ("100Gi", 100 << 30),
            ("1.5Gi", 3 << 29),
            ("0.5", 1),
            ("1k", 1000),
            ("12E", MAX),
            ("9223372036854775808", MAX),
            ("1e40", MAX),
            ("1e3", 1000),
            ("1E3", 1000),
            ("2.5e1", 25),
            ("100m", 1),
            ("1n", 1),
            (".5Ki", 512),
            ("5.", 5),
            ("-0", 0),
            ("9223372036854775807", MAX),
        ] {
            assert_eq!(bytes(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_an_example() {
        for bad in ["", "-1", "Gi", "ten", "1 Gi", "1Gb", "1.2.3", "1ee3", "0x10", "1gi"] {
            let error = bytes(bad).expect_err(bad);
            assert!(error.to_string().contains("100Gi"), "{error}");
        }
    }

    #[test]
    fn sizes_are_told_with_three_digits_at_most() {
        for (value, wanted) in [
            (0, "0"),
            (512, "512"),
            (1023, "1023"),
            (1024, "1Ki"),
            (4096, "4Ki"),
            (1536, "1.5Ki"),
            (150 << 20, "150Mi"),
            (1 << 40, "1Ti"),
            ((1 << 20) - 1, "1Mi"),
        ] {
            assert_eq!(format(value), wanted);
        }
    }
}
