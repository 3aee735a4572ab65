"""Remote procedure calls: methods exposed by a session's side, called by the other one."""
