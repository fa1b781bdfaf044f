SELECT position, at_us FROM entries WHERE position <= ? ORDER BY position DESC LIMIT 1;
