"""Where bytes come from: one file per scheme, each a SourceHandler. A source knows no other op."""
