//! When each letter of a word is spoken: `cargo run --example ctc_alignment`.
//!
//! An acoustic model gives for each frame the logits of the letters and of the blank. The best path says which frame
//! stands for which letter of the word that is known to have been spoken, and the posteriors how sure that is.

#![allow(clippy::disallowed_macros, clippy::disallowed_methods)]

use rustloss::{BestPath, CTCLoss, Result};

/// The blank, and the letters of the model.
const ALPHABET: &[u8; 5] = b"_aelp";
const WORD: &[u8; 5] = b"apple";
/// What is most probable in each frame; the model takes the third frame of the first p for an l.
const HEARD: &[u8; 14] = b"_aa_ppl_ppll_e";

fn class(letter: u8) -> usize {
    ALPHABET.iter().position(|&other| other == letter).expect("a letter of the model")
}

/// Logits: 3 for what is heard, 1 for the letter before it in the alphabet, 0 for the rest.
fn logits() -> [[f32; ALPHABET.len()]; HEARD.len()] {
    HEARD.map(|letter| {
        let mut logits = [0.0; ALPHABET.len()];
        logits[class(letter)] = 3.0;
        logits[class(letter).saturating_sub(1)] += 1.0;
        logits
    })
}

/// The loss of the word, and its best path.
fn align() -> Result<(f32, BestPath<f32>)> {
    let loss = CTCLoss::builder().layout("TC").blank("first").build()?;
    let (pred, label) = (logits(), WORD.map(|letter| class(letter) as i64));
    let value = loss.value(&pred, &label)?;
    let path = loss.call(&pred, &label).best_path()?;
    Ok((value.item().unwrap_or(f32::NAN), path))
}

/// The path as letters, capital ones for every second letter of the word.
fn shown(path: &BestPath<f32>) -> String {
    let letter = |&index: &i64| match usize::try_from(index) {
        Err(_) => '_',
        Ok(index) if index % 2 == 0 => char::from(WORD[index]),
        Ok(index) => char::from(WORD[index].to_ascii_uppercase()),
    };
    path.label_index.data().iter().map(letter).collect()
}

fn main() -> Result<()> {
    let (value, path) = align()?;
    println!("-log p(word) = {value:.4}");
    println!("heard     {}", String::from_utf8_lossy(HEARD));
    println!("best path {}", shown(&path));
    let tenths = path.posterior.data().iter().map(|p| (p * 10.0).min(9.0).trunc().to_string());
    println!("sureness  {}  (tenths)", tenths.collect::<String>());
    Ok(())
}

#[test]
fn each_letter_has_its_frames() {
    let (value, path) = align().unwrap();
    assert!(value > 0.0 && value.is_finite());
    let mut indices = path.label_index.data().to_vec();
    indices.retain(|&index| index >= 0);
    indices.dedup();
    assert_eq!(indices, [0, 1, 2, 3, 4]);
    let shown = shown(&path);
    assert!(shown.starts_with("_aa_P") && shown.ends_with("_e"), "{shown}");
}
