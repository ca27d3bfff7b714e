//! Questions and answers about whose an address is.

use look_up_wire::{ANSWER, Answer, Framer, QUESTION, Question};

/// A stream of either kind, however it is cut; what is accepted is written again as it was.
pub fn look_up(bytes: &[u8]) {
    let (whole, pieces) = crate::bytes::two_cuts(bytes);
    let whole: Vec<&[u8]> = whole.collect();
    let pieces: Vec<&[u8]> = pieces.collect();
    assert_eq!(questions(&whole), questions(&pieces));
    assert_eq!(answers(&whole), answers(&pieces));
}

fn questions(pieces: &[&[u8]]) -> Vec<Question> {
    let (mut framer, mut questions) = (Framer::default(), Vec::new());
    for piece in pieces {
        framer.push(piece);
        loop {
            match framer.next_question() {
                Ok(Some(question)) => {
                    let mut out = Vec::new();
                    question.encode(&mut out);
                    assert_eq!(out.len(), QUESTION);
                    assert_eq!(Question::decode(out.as_slice().try_into().expect("one question")), Ok(question));
                    questions.push(question);
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return questions;
                }
            }
        }
    }
    questions
}

fn answers(pieces: &[&[u8]]) -> Vec<Answer> {
    let (mut framer, mut answers) = (Framer::default(), Vec::new());
    for piece in pieces {
        framer.push(piece);
        loop {
            match framer.next_answer() {
                Ok(Some(answer)) => {
                    let mut out = Vec::new();
                    answer.encode(&mut out);
                    assert_eq!(out.len(), ANSWER);
                    assert_eq!(Answer::decode(out.as_slice().try_into().expect("one answer")), Ok(answer));
                    answers.push(answer);
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return answers;
                }
            }
        }
    }
    answers
}
