SELECT epoch, state, since_us, why FROM epoch
