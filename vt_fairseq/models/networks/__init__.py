"""Ready-made video networks around models of other libraries, imported when they are used."""
