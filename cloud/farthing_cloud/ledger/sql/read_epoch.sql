SELECT epoch FROM epoch
