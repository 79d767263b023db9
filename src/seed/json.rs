// SPDX-License-Identifier: BSD-2-Clause
//! JSON, which cloud-init reads as the YAML that it is. A YAML serializer would leave a MAC such as 12:34:56:12:34:56
//! without quotes, and cloud-init's YAML 1.1 takes that for a number to the base of 60.

use serde::Serialize;

/// `value` for people and machines, with a newline at its end.
pub(super) fn document(value: &impl Serialize) -> Vec<u8> {
    // It only fails for maps whose keys are no texts.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}
