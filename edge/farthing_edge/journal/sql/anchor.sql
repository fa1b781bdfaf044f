SELECT position, chain, batches, directives, billed_micros FROM anchor WHERE id = 1;
