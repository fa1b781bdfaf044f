SELECT version, directive_hash FROM directives ORDER BY version DESC;
