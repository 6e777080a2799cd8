"""What the dashboard shows as it happens: changes, short histories, who is connected. All in memory, all bounded."""
