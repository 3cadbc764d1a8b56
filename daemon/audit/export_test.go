package audit

// SetProbe lets a test stand before each disk operation: to copy the directory as a crash would leave it, or to
// fail in its place.
func (c *Config) SetProbe(probe func(step string) error) { c.probe = probe }
