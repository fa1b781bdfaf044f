-- What was posted since an instant, by either date, without reading the postings of years. Next to nothing to write: dates grow with the table,
-- and a batch that comes late is old by business, which hides none that is newer.
CREATE INDEX postings_by_date ON postings USING brin (posted_at_us, business_at_us) WITH (pages_per_range = 16, autosummarize = on);
