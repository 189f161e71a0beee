//! A bounded list of warnings: a file may be all mistakes, and a log should still be readable.

const MAX_WARNINGS: usize = 50;

#[derive(Debug, Default)]
pub(crate) struct Warnings {
    texts: Vec<String>,
    dropped: usize,
}

impl Warnings {
    pub(crate) fn push(&mut self, text: impl FnOnce() -> String) {
        if self.texts.len() < MAX_WARNINGS {
            self.texts.push(text());
        } else {
            self.dropped += 1;
        }
    }

    pub(crate) fn into_texts(mut self) -> Vec<String> {
        if self.dropped > 0 {
            self.texts.push(format!("{} more warnings are left out", self.dropped));
        }
        self.texts
    }
}
